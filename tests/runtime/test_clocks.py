"""A clock on the wall may be set at any moment: nothing that waits or times out looks at it."""

import ast
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from branchwork.runtime import mock_service
from branchwork.runtime.wire.client import connect
from branchwork.runtime.wire.config import RuntimeConfig
from branchwork.runtime.wire.errors import BranchworkError
from branchwork.runtime.wire.messages import Close, Closed, Done, Event, Gen, Open, Sampling, Text

ROOT = Path(__file__).parents[2]

# Dates that people read: of a model, an answer, a trace; and what a chat template calls today.
SHOWN = {
    "runtime/server/model.py", "runtime/server/answers.py", "runtime/server/spans.py",
    "runtime/io/chat_template.py",
}  # fmt: skip

WALL_CLOCKS = {
    "time.time",
    "time.time_ns",
    "datetime.now",
    "datetime.utcnow",
    "datetime.today",
    "date.today",
}


def wall_clocks(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            name = ".".join(ast.unparse(node).split(".")[-2:])
            if name in WALL_CLOCKS:
                yield name
        elif isinstance(node, ast.ImportFrom) and node.module == "time":
            yield from (
                f"time.{one.name}" for one in node.names if f"time.{one.name}" in WALL_CLOCKS
            )


def test_the_wall_clock_is_read_for_dates_and_for_no_interval() -> None:
    readers = {
        str(path.relative_to(ROOT))
        for folder in ("lang", "runtime", "kernels", "src/branchwork/commands")
        for path in (ROOT / folder).rglob("*.py")
        if any(wall_clocks(path.read_text("utf-8")))
    }
    assert readers == SHOWN


def test_a_wall_clock_that_jumps_by_years_ends_no_slot_and_no_connection(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choice = random.Random(0)
    years = 365 * 86_400.0
    monkeypatch.setattr(time, "time", lambda: 1.6e9 + choice.uniform(-50, 50) * years)
    options = RuntimeConfig(
        address=f"ipc://{short_path}/socket", heartbeat_s=0.05, client_timeout_s=60.0
    )
    service = mock_service.assemble(options, lambda _: None)
    thread = threading.Thread(target=service.run, daemon=True)
    thread.start()
    client = connect(service.address)
    heard: list[Event | BranchworkError] = []
    branch = client.new_branch(heard.append)
    gen = Gen(branch, "x", Sampling(max_tokens=200, ignore_eos=True), stream=True, deadline_s=60.0)
    client.send([Open(branch, pin_s=30.0), Text(branch, "the town is "), gen, Close(branch)])
    assert client.wait(lambda: bool(heard) and isinstance(heard[-1], Closed | BranchworkError), 30)
    (done,) = [one for one in heard if isinstance(one, Done)]
    assert done.usage.completion == 200
    assert 0 <= done.usage.total_ms < 30_000
    assert service._engine.stats()["pins"] == 1
    client.close()
    service.stop(0.0)
    thread.join(30)
