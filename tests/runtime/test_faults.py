"""The whole runtime, sockets and all, when the k-th call of something fails: who is hurt is told, others are served."""

import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from branchwork.runtime import mock_service
from branchwork.runtime.io.intake import Intake
from branchwork.runtime.io.router import Router
from branchwork.runtime.mock import MockTokenizer
from branchwork.runtime.mock_service import MockEncoder
from branchwork.runtime.service import Service
from branchwork.runtime.wire.client import Client, connect
from branchwork.runtime.wire.config import RuntimeConfig
from branchwork.runtime.wire.errors import BranchworkError
from branchwork.runtime.wire.messages import (
    Close,
    Closed,
    Done,
    Embed,
    Event,
    Failed,
    Gen,
    Instruction,
    Open,
    Regex,
    Sampling,
    Select,
    Text,
)

SLOTS = ("a", "b", "c", "d", "e", "f")
NUMBER = Regex("(19|20)[0-9]{2}|none")


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    # The path of a socket has 107 bytes at most.
    with tempfile.TemporaryDirectory(prefix="branchwork-", dir="/tmp") as folder:
        options = RuntimeConfig(
            address=f"ipc://{folder}/socket", heartbeat_s=0.05, log_level="error"
        )
        running = mock_service.assemble(options, lambda _: None)
        thread = threading.Thread(target=running.run, daemon=True)
        thread.start()
        yield running
        running.stop(0.0)
        thread.join(30)


class Caller:
    """A client and what it has heard of its branches."""

    def __init__(self, address: str) -> None:
        self.client: Client = connect(address)
        self.heard: dict[int, list[Event | BranchworkError]] = {}

    def ask(self) -> None:
        """Two branches of four slots each, as one frame."""
        greedy = Sampling(max_tokens=6, temperature=0.0)
        stopping = msgspec.structs.replace(greedy, stop=("th",), stop_regex=("[aeiou]{2}",))
        frame: list[Instruction] = []
        for _ in range(2):
            events: list[Event | BranchworkError] = []
            branch = self.client.new_branch(events.append)
            self.heard[branch] = events
            frame += [
                Open(branch),
                Text(branch, "the town is "),
                Gen(branch, "a", greedy, stream=True),
                Text(branch, ", and "),
                Gen(branch, "b", greedy, heal=True),
                Gen(branch, "e", greedy, constraint=NUMBER),
                Gen(branch, "f", stopping),
                Select(branch, "c", ("Paris", "London")),
                Embed(branch, "d"),
                Close(branch),
            ]
        self.client.send(frame)

    def is_told(self) -> bool:
        """Whether nothing more is to come: every slot has its end and every branch its own, or the connection has."""
        return all(
            events and isinstance(events[-1], Closed | BranchworkError)
            for events in self.heard.values()
        )

    def answers(self) -> dict[tuple[int, str], str | None]:
        """The text of each slot, by the branch's place; None for one that has failed."""
        out: dict[tuple[int, str], str | None] = {}
        for place, events in enumerate(self.heard.values()):
            for event in events:
                if isinstance(event, Done | Failed):
                    assert (place, event.slot) not in out, "two ends of one slot"
                    out[place, event.slot] = event.text if isinstance(event, Done) else None
            if isinstance(events[-1], Closed):
                ended = {slot for own, slot in out if own == place}
                assert ended == set(SLOTS), "a slot without an end"
        return out


def run_two(service: Service, faults: "Faults | None" = None, k: int = 0) -> tuple[Caller, Caller]:
    """Two clients, connected before the k-th call fails, ask at once; returns when both have been told all."""
    callers = Caller(service.address), Caller(service.address)
    if faults is not None:
        faults.num_left = k
    for caller in callers:
        caller.ask()
    for caller in callers:
        try:
            assert caller.client.wait(caller.is_told, 20), "a caller waits for ever"
        except BranchworkError:
            assert caller.is_told()
        caller.client.close()
    return callers


class Faults:
    """Lets the k-th call fail after it was armed."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._lock = threading.Lock()
        self.num_left = 0

    def __get__(self, instance: object, owner: type) -> Callable[..., Any]:
        return lambda *args, **kwargs: self(instance, *args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self._lock:
            self.num_left -= 1
            fires = self.num_left == 0
        if fires:
            raise OSError("injected")
        return self._function(*args, **kwargs)


@pytest.mark.parametrize(
    ("owner", "name", "num_hurt"),
    [
        (Router, "send", 1),
        (MockEncoder, "encode", 1),
        (MockTokenizer, "encode_bytes", 1),
        (Intake, "take", 1),
        (Intake, "_dispatch", 1),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_when_the_kth_call_fails_its_client_is_told_and_the_other_is_served(
    service: Service, monkeypatch: pytest.MonkeyPatch, owner: type, name: str, num_hurt: int
) -> None:
    expected = run_two(service)[0].answers()
    assert None not in expected.values()
    faults = Faults(getattr(owner, name))
    monkeypatch.setattr(owner, name, faults)
    num_fired = 0
    for k in range(1, 25):
        callers = run_two(service, faults, k)
        num_fired += faults.num_left <= 0
        faults.num_left = 0
        hurt = [caller for caller in callers if caller.answers() != expected]
        assert len(hurt) <= num_hurt
        for caller in hurt:
            for slot, answer in caller.answers().items():
                assert answer in (expected[slot], None), "a wrong answer"
    assert num_fired > 3, "the faults did not fire"


def test_after_all_faults_the_pool_is_whole(service: Service, tmp_path: Path) -> None:
    caller = run_two(service)[0]
    assert None not in caller.answers().values()
    client = connect(service.address)
    client.request("flush_cache")
    stats = service._engine.stats()
    client.close()
    assert stats["slots_free"] == stats["slots_total"]
    assert stats["running"] == stats["waiting"] == 0
