"""Clients that flood, stall, hoard and fork without end: the others are served, and nothing stays when they leave."""

import contextlib
import json
import socket
import time
from collections.abc import Iterator

import msgspec
import pytest
import zmq

from branchwork.runtime.wire.client import Client
from branchwork.runtime.wire.errors import BranchworkError, QueueFull
from branchwork.runtime.wire.launcher import RunningRuntime, launch
from branchwork.runtime.wire.messages import (
    Close,
    Closed,
    Done,
    Event,
    Failed,
    Gen,
    Hello,
    Instruction,
    Open,
    Sampling,
    Text,
)

NUM_BRANCHES = 10_000
ZMTP_GREETING = b"\xff\0\0\0\0\0\0\0\1\x7f\3"


@pytest.fixture(scope="module")
def runtime() -> Iterator[RunningRuntime]:
    with launch(module="branchwork.runtime.mock_service", max_branches=NUM_BRANCHES) as running:
        yield running


@pytest.fixture
def bystander(runtime: RunningRuntime) -> Iterator[Client]:
    client = runtime.connect()
    yield client
    client.close()


def served(client: Client) -> str:
    heard: list[Event | BranchworkError] = []
    branch = client.new_branch(heard.append)
    gen = Gen(branch, "x", Sampling(max_tokens=8, temperature=0.0))
    client.send([Open(branch), Text(branch, "the town is "), gen, Close(branch)])
    assert client.wait(lambda: bool(heard) and isinstance(heard[-1], Closed), 60)
    (done,) = [one for one in heard if isinstance(one, Done)]
    return done.text


def numbers(client: Client) -> dict[str, int]:
    found: dict[str, int] = json.loads(client.request("stats"))
    return found


def until_gone(client: Client) -> None:
    """Until only the bystander is left, and nothing of the others."""
    deadline = time.monotonic() + 60
    while (now := numbers(client))["branches"] or now["clients"] > 1:
        assert time.monotonic() < deadline, now
        time.sleep(0.05)
    assert now["slots_locked"] == 0


def connected(path: str) -> socket.socket:
    """A stream to the runtime's socket; while its line of newcomers is full, the kernel says so at once."""
    stranger = socket.socket(socket.AF_UNIX)
    stranger.settimeout(10)
    while True:
        try:
            stranger.connect(path)
        except BlockingIOError:
            time.sleep(0.005)
        else:
            return stranger


@pytest.mark.parametrize("words", [b"", ZMTP_GREETING, b"GET / HTTP/1.1\r\n\r\n" * 50])
def test_two_thousand_connections_that_are_no_clients_keep_nobody_from_being_served(
    runtime: RunningRuntime, bystander: Client, words: bytes
) -> None:
    before = served(bystander)
    path = runtime.address.removeprefix("ipc://")
    sockets = []
    for number in range(2000):
        stranger = connected(path)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it was hung up on
            stranger.sendall(words)
        sockets.append(stranger)
        if number % 500 == 0:
            assert served(bystander) == before
        if len(sockets) > 400:  # a test may not have more files open than many systems allow
            sockets.pop(0).close()
    assert served(bystander) == before
    for stranger in sockets:
        stranger.close()
    until_gone(bystander)


def test_ten_thousand_branches_that_are_opened_and_never_used_go_with_their_client(
    runtime: RunningRuntime, bystander: Client
) -> None:
    before = served(bystander)
    hoarder = runtime.connect()
    branches = [hoarder.new_branch(lambda _: None) for _ in range(NUM_BRANCHES)]
    hoarder.send([part for branch in branches for part in (Open(branch), Text(branch, "a"))])
    assert served(bystander) == before
    assert numbers(hoarder)["branches"] == NUM_BRANCHES
    hoarder.close()
    until_gone(bystander)


def test_a_client_that_forks_to_the_limit_is_told_so_and_takes_the_memory_of_one_branch(
    runtime: RunningRuntime, bystander: Client
) -> None:
    forker = runtime.connect()
    heard: list[Event | BranchworkError] = []
    trunk = forker.new_branch(heard.append)
    forker.send([Open(trunk), Text(trunk, token_ids=(65,) * 4000)])
    assert numbers(forker)["branches"] == 1
    before = memory_mib(runtime.pid)
    children = [forker.new_branch(heard.append) for _ in range(NUM_BRANCHES + 5)]
    forker.send([Open(child, parent=trunk) for child in children])
    last = children[-1]
    forker.send([Gen(last, "x"), Close(last)])
    assert forker.wait(lambda: any(isinstance(one, Failed) for one in heard), 60)
    (failed,) = [one for one in heard if isinstance(one, Failed)]
    assert failed.code == "queue_full"
    assert memory_mib(runtime.pid) - before < 80, "copies would take 230"
    served(bystander)
    forker.close()
    until_gone(bystander)


def streams(branches: list[int]) -> list[Instruction]:
    """Sixteen MiB of events for 64 branches."""
    sampling = Sampling(max_tokens=450, ignore_eos=True)
    return [
        part
        for branch in branches
        for part in (
            Open(branch),
            Text(branch, "in "),
            Gen(branch, "x", sampling, stream=True, logprobs=20),
        )
    ]


@contextlib.contextmanager
def lazy_client(runtime: RunningRuntime) -> Iterator[None]:
    """Asks for 64 streams and reads none of them."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    lazy = context.socket(zmq.DEALER)
    lazy.linger, lazy.rcvhwm = 0, 1
    try:
        lazy.connect(runtime.address)
        lazy.send(msgspec.msgpack.encode([Hello()]))
        assert lazy.poll(10_000)
        lazy.recv()
        lazy.send(msgspec.msgpack.encode(streams(list(range(64)))))
        yield
    finally:
        lazy.close()
        context.term()


@pytest.mark.slow
def test_who_stops_reading_sixty_four_streams_costs_no_memory_and_nobody_waits_for_him() -> None:
    with launch(module="branchwork.runtime.mock_service", max_unread_bytes=1 << 20) as runtime:
        bystander, reader = runtime.connect(), runtime.connect()
        before = served(bystander)
        heard: list[Event | BranchworkError] = []
        reader.send(streams([reader.new_branch(heard.append) for _ in range(64)]))
        assert reader.wait(lambda: sum(isinstance(one, Done) for one in heard) == 64, 120)
        reader.close()
        until_gone(bystander)
        memory = memory_mib(runtime.pid)  # what serving so much takes
        with lazy_client(runtime):
            deadline = time.monotonic() + 60
            while numbers(bystander)["branches"] < 64:
                assert time.monotonic() < deadline
            while numbers(bystander)["branches"]:
                assert time.monotonic() < deadline, "it is not given up"
                assert served(bystander) == before
                assert memory_mib(runtime.pid) - memory < 10, "all of it would be 16"
        until_gone(bystander)
        bystander.close()


def test_what_a_client_has_waiting_is_bounded_and_others_are_served() -> None:
    with launch(module="branchwork.runtime.mock_service", max_client_bytes=1 << 20) as runtime:
        bystander, hoarder = runtime.connect(), runtime.connect()
        before = served(bystander)
        heard: list[Event | BranchworkError] = []
        branches = [hoarder.new_branch(heard.append) for _ in range(40)]
        for branch in branches:
            hoarder.send([Open(branch), Text(branch, "a" * 65_536), Gen(branch, "x")])
        assert hoarder.wait(lambda: len(heard) >= 40, 60)
        codes = [one.code for one in heard if isinstance(one, Failed)]
        assert codes.count("queue_full") >= 24
        assert served(bystander) == before
        with pytest.raises(QueueFull):
            hoarder.request("tokenize", json.dumps({"text": "a" * (1 << 20)}))
        hoarder.send([Close(branch) for branch in branches])
        assert hoarder.wait(lambda: sum(isinstance(one, Closed) for one in heard) == 40, 60)
        assert served(hoarder) == before
        for client in (hoarder, bystander):
            client.close()


def memory_mib(pid: int) -> float:
    with open(f"/proc/{pid}/status", encoding="ascii") as lines:
        (line,) = [line for line in lines if line.startswith("RssAnon")]
    return int(line.split()[1]) / 1024
