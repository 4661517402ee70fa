"""The client against real runtime processes that answer at once, and against sockets that misbehave."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import msgspec
import pytest
import zmq
from tests.empty_runtime import launch_empty

from branchwork.runtime.wire.client import Client, connect
from branchwork.runtime.wire.errors import (
    BranchworkError,
    InvalidParameter,
    RuntimeDied,
    RuntimeUnreachable,
    TransportError,
    VersionMismatch,
)
from branchwork.runtime.wire.launcher import RunningRuntime
from branchwork.runtime.wire.messages import (
    Abort,
    ChatFormat,
    Close,
    Closed,
    Done,
    Event,
    Failed,
    Gen,
    Hello,
    Open,
    Reply,
    Request,
    Text,
    Tokens,
    Welcome,
)

Heard = list[Event | BranchworkError]


def open_branch(client: Client) -> tuple[int, Heard]:
    heard: Heard = []
    branch = client.new_branch(heard.append)
    client.send([Open(branch)])
    return branch, heard


def ended(heard: Heard, count: int = 1) -> bool:
    return sum(isinstance(event, Done | Failed) for event in heard) >= count


def test_a_program_in_one_frame_is_answered_in_order(client: Client) -> None:
    heard: Heard = []
    branch = client.new_branch(heard.append)
    client.send(
        [Open(branch), Text(branch, "a"), Gen(branch, "x"), Gen(branch, "y"), Close(branch)]
    )
    assert client.wait(lambda: any(isinstance(event, Closed) for event in heard), 10)
    kinds = [(type(event).__name__, getattr(event, "slot", "")) for event in heard]
    assert kinds == [("Tokens", "x"), ("Done", "x"), ("Tokens", "y"), ("Done", "y"), ("Closed", "")]


def test_wait_returns_false_when_the_time_is_over(client: Client) -> None:
    assert client.wait(lambda: False, 0.05) is False


def test_wait_that_is_ready_does_not_touch_the_socket(client: Client) -> None:
    assert client.wait(lambda: True, 0.0) is True


def test_many_threads_wait_on_one_socket_and_each_gets_its_own(client: Client) -> None:
    texts: dict[int, int] = {}

    def program(number: int) -> None:
        branch, heard = open_branch(client)
        for turn in range(1, 21):
            client.send([Text(branch, "go on"), Gen(branch, f"{number}")])
            assert client.wait(partial(ended, heard, turn), 30)
        texts[number] = sum(
            isinstance(event, Done) and event.slot == f"{number}" for event in heard
        )

    threads = [threading.Thread(target=program, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert texts == dict.fromkeys(range(16), 20)


def test_a_waiting_thread_takes_over_when_the_leader_leaves(client: Client) -> None:
    branch, heard = open_branch(client)
    leader = threading.Thread(target=client.wait, args=(lambda: False, 0.3))
    leader.start()
    answered: list[bool] = []
    follower = threading.Thread(
        target=lambda: answered.append(client.wait(lambda: ended(heard), 30))
    )
    follower.start()
    leader.join(30)
    client.send([Gen(branch, "x")])
    follower.join(30)
    assert answered == [True]


def test_events_are_delivered_while_nobody_waits_once_asked_for(client: Client) -> None:
    client.deliver_in_background()
    arrived = threading.Event()

    def listen(event: Event | BranchworkError) -> None:
        if isinstance(event, Done):
            arrived.set()

    branch = client.new_branch(listen)
    client.send([Open(branch), Gen(branch, "x")])
    assert arrived.wait(30)


def test_a_thread_may_wait_while_events_are_delivered_in_background(client: Client) -> None:
    client.deliver_in_background()
    branch, heard = open_branch(client)
    for turn in range(1, 51):
        client.send([Gen(branch, "x")])
        assert client.wait(partial(ended, heard, turn), 30)


def test_a_listener_may_send(client: Client) -> None:
    heard: Heard = []

    def listen(event: Event | BranchworkError) -> None:
        heard.append(event)
        if isinstance(event, Done) and event.slot == "first":
            client.send([Gen(branch, "second")])

    branch = client.new_branch(listen)
    client.send([Open(branch), Gen(branch, "first")])
    assert client.wait(lambda: ended(heard, 2), 30)


def test_a_listener_that_raises_keeps_nothing_from_the_others(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    def break_down(event: Event | BranchworkError) -> None:
        raise ZeroDivisionError

    broken = client.new_branch(break_down)
    branch, heard = open_branch(client)
    client.send([Open(broken), Gen(broken, "x"), Gen(branch, "x")])
    assert client.wait(lambda: ended(heard), 30)
    assert "a listener raised" in caplog.text


def test_a_condition_that_raises_does_so_on_its_own_thread(client: Client) -> None:
    branch, heard = open_branch(client)
    raised: list[BaseException] = []

    def bad_wait() -> None:
        calls = iter([False, False, False])
        try:
            client.wait(lambda: next(calls), 30)
        except (
            RuntimeError
        ) as error:  # PEP 479 does not apply: StopIteration leaves a lambda as it is
            raised.append(error)
        except StopIteration as error:
            raised.append(error)

    thread = threading.Thread(target=bad_wait)
    thread.start()
    client.send([Gen(branch, "x")])
    assert client.wait(lambda: ended(heard), 30)
    client.send([Gen(branch, "x")])
    assert client.wait(lambda: ended(heard, 2), 30)
    thread.join(30)
    assert len(raised) == 1


def test_a_request_is_answered_or_raises_what_the_runtime_says(client: Client) -> None:
    assert client.request("stats") == "{}"
    with pytest.raises(InvalidParameter, match="there is no request 'secrets'"):
        client.request("secrets")


def test_shutdown_is_not_for_clients(client: Client) -> None:
    with pytest.raises(InvalidParameter):
        client.request("shutdown")


def test_a_lone_surrogate_is_refused_where_it_is_sent(client: Client) -> None:
    branch, _ = open_branch(client)
    with pytest.raises(InvalidParameter, match="lone surrogate at character 1"):
        client.send([Text(branch, "a\ud800")])


def test_a_frame_that_is_too_large_travels_in_several(client: Client) -> None:
    branch, heard = open_branch(client)
    megabyte = "a" * (1 << 20)
    client.send([*[Text(branch, megabyte) for _ in range(20)], Gen(branch, "x")])
    assert client.wait(lambda: ended(heard), 60)


def test_a_message_that_is_too_large_is_refused_where_it_is_sent(client: Client) -> None:
    branch, _ = open_branch(client)
    with pytest.raises(InvalidParameter, match="--max-text-bytes"):
        client.send([Text(branch, "a" * (9 << 20))])
    assert client.request("stats") == "{}"


@pytest.mark.parametrize("text", ["a" * (9 << 20), "a\ud800"])
def test_of_instructions_that_cannot_be_sent_none_is_and_their_branches_are_forgotten(
    client: Client, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stood before a text too large was sent, and the branch stayed open until the client left."""
    sent: list[bytes] = []
    heard: Heard = []
    branch = client.new_branch(heard.append)
    monkeypatch.setattr(client._transport, "send", sent.append)
    with pytest.raises(InvalidParameter):
        client.send([Open(branch), Text(branch, text), Gen(branch, "x"), Close(branch)])
    assert sent == []
    assert not client._session._listeners


def test_a_closed_client_tells_its_listeners_and_refuses_to_send(empty: RunningRuntime) -> None:
    client = empty.connect()
    branch, heard = open_branch(client)
    client.close()
    client.close()
    assert [type(event) for event in heard] == [TransportError]
    with pytest.raises(TransportError, match="closed"):
        client.send([Gen(branch, "x")])


def test_closing_wakes_whoever_waits(empty: RunningRuntime) -> None:
    client = empty.connect()
    errors: list[BranchworkError] = []

    def wait() -> None:
        try:
            client.wait(lambda: False)
        except BranchworkError as error:
            errors.append(error)

    threads = [threading.Thread(target=wait) for _ in range(4)]
    for thread in threads:
        thread.start()
    client.close()
    for thread in threads:
        thread.join(30)
    assert [type(error) for error in errors] == [TransportError] * 4


def test_closing_while_the_leader_closes_for_itself_raises_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with launch_empty() as runtime:
        client = runtime.connect()
        client.deliver_in_background()
        assert client.request("stats") == "{}"
        transport = client._transport
        wake = transport.wake

        def wake_late() -> None:
            runtime.kill()
            assert client._closed.wait(30)
            wake()

        monkeypatch.setattr(transport, "wake", wake_late)
        client.close()
        assert client._closed.is_set()


def test_a_send_that_meets_a_closing_says_that_the_client_was_closed(
    empty: RunningRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It said that the runtime was gone, which lives."""
    client = empty.connect()
    branch, _ = open_branch(client)
    send = client._transport.send

    def send_late(frame: bytes) -> None:
        client.close()
        send(frame)

    monkeypatch.setattr(client._transport, "send", send_late)
    with pytest.raises(TransportError, match="closed"):
        client.send([Gen(branch, "x")])


def test_a_listener_may_close_the_client(empty: RunningRuntime) -> None:
    client = empty.connect()
    client.deliver_in_background()
    branch = client.new_branch(lambda event: client.close())
    client.send([Open(branch), Gen(branch, "x")])
    with pytest.raises(TransportError):
        client.wait(lambda: False, 30)


def _use_in_child(client: Client, result: "multiprocessing.SimpleQueue[str]") -> None:
    try:
        client.request("stats")
    except TransportError as error:
        result.put(str(error))
    client.close()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_a_forked_child_cannot_use_its_parents_connection(client: Client) -> None:
    context = multiprocessing.get_context("fork")
    result = context.SimpleQueue()
    child = context.Process(target=_use_in_child, args=(client, result))
    child.start()
    child.join(30)
    assert "forked process" in result.get()
    assert client.request("stats") == "{}"


def test_when_the_runtime_is_killed_every_waiter_hears_it_and_a_new_one_works() -> None:
    with launch_empty() as runtime:
        client = runtime.connect()
        branches = [open_branch(client) for _ in range(50)]
        errors: list[BranchworkError] = []

        def wait() -> None:
            try:
                client.wait(lambda: False)
            except BranchworkError as error:
                errors.append(error)

        threads = [threading.Thread(target=wait) for _ in range(20)]
        for thread in threads:
            thread.start()
        runtime.kill()
        for thread in threads:
            thread.join(30)
        assert [type(error) for error in errors] == [RuntimeDied] * 20
        assert "SIGKILL" in str(errors[0])
        assert all([type(event) for event in heard] == [RuntimeDied] for _, heard in branches)
        with pytest.raises(RuntimeDied):
            client.send([Open(1)])
        client.close()
    with launch_empty() as runtime:
        client = runtime.connect()
        assert client.request("stats") == "{}"
        client.close()


@pytest.mark.slow
def test_a_runtime_that_was_stopped_for_a_while_goes_on_where_it_was() -> None:
    with launch_empty() as runtime:
        client = runtime.connect()
        os.kill(runtime.pid, signal.SIGSTOP)
        heard: list[Event | BranchworkError] = []
        branch = client.new_branch(heard.append)
        client.send([Open(branch), Gen(branch, "x"), Close(branch)])
        assert not client.wait(lambda: bool(heard), 10)
        os.kill(runtime.pid, signal.SIGCONT)
        assert client.wait(lambda: bool(heard) and isinstance(heard[-1], Closed), 5)
        assert time.monotonic() - client.last_seen < 5
        client.close()


@pytest.mark.slow
def test_a_runtime_that_is_stopped_counts_as_dead() -> None:
    with launch_empty() as runtime:
        client = runtime.connect()
        os.kill(runtime.pid, signal.SIGSTOP)
        with pytest.raises(RuntimeDied):
            client.wait(lambda: False, 60)
        runtime.kill()
        client.close()


def test_the_background_tells_of_a_death_that_nobody_waits_for() -> None:
    with launch_empty() as runtime:
        client = runtime.connect()
        client.deliver_in_background()
        told = threading.Event()
        branch = client.new_branch(lambda event: told.set())
        client.send([Open(branch)])
        runtime.kill()
        assert told.wait(30)
        client.close()


def test_sending_to_a_dead_runtime_raises_before_anyone_has_waited() -> None:
    with launch_empty() as runtime:
        client = runtime.connect()
        runtime.kill()
        runtime.wait_exit(30)

        def send_until_it_raises() -> None:
            for _ in range(10_000):
                client.send([Abort(1)])

        with pytest.raises(RuntimeDied):
            send_until_it_raises()
        client.close()


@contextmanager
def fake_runtime(folder: Path) -> "Iterator[tuple[str, zmq.Socket[bytes]]]":
    address = f"ipc://{folder}/fake"
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.ROUTER)
    socket.linger = 0
    socket.bind(address)
    try:
        yield address, socket
    finally:
        socket.close()
        context.term()


def answer(socket: "zmq.Socket[bytes]", frame: bytes) -> None:
    peer, _ = socket.recv_multipart()
    socket.send_multipart([peer, frame])


WELCOME = Welcome(
    version=1,
    runtime_version="0",
    model="fake",
    model_checksum="",
    context_len=8,
    vocab_size=2,
    eos_token_ids=(),
    chat_format=ChatFormat({}, {}),
    limits={"max_text_bytes": 1024},
    heartbeat_s=0.05,
    pid=0,
)


def test_a_runtime_of_another_version_is_named(short_path: Path) -> None:
    with fake_runtime(short_path) as (address, socket):
        frame = msgspec.msgpack.encode([msgspec.structs.replace(WELCOME, version=99)])
        thread = threading.Thread(target=answer, args=(socket, frame))
        thread.start()
        with pytest.raises(VersionMismatch, match="99"):
            connect(address)
        thread.join(30)


def test_a_client_of_another_version_is_refused_by_the_runtime(empty: RunningRuntime) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.connect(empty.address)
    socket.send(msgspec.msgpack.encode([Hello(version=99)]))
    assert socket.poll(10_000)
    assert b"version_mismatch" in socket.recv()
    socket.close(0)
    context.term()


def test_nobody_at_the_address_is_said_at_once(short_path: Path) -> None:
    with pytest.raises(RuntimeUnreachable, match="nobody answers"):
        connect(f"ipc://{short_path}/absent", timeout_s=60)


def test_somebody_who_does_not_answer_is_given_up(short_path: Path) -> None:
    with (
        fake_runtime(short_path) as (address, _),
        pytest.raises(RuntimeUnreachable, match="nobody answers"),
    ):
        connect(address, timeout_s=0.1)


def test_frames_that_are_no_messages_are_dropped(
    short_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with fake_runtime(short_path) as (address, socket):

        def play() -> None:
            peer, _ = socket.recv_multipart()
            socket.send_multipart([peer, b"\xc1garbage"])
            socket.send_multipart([peer, msgspec.msgpack.encode([["no such message"]])])
            socket.send_multipart([peer, msgspec.msgpack.encode([WELCOME])])
            while True:
                _, frame = socket.recv_multipart()
                for message in msgspec.msgpack.decode(frame):
                    if message[0] == "request":
                        reply = Reply(message[1], '"here"')
                        socket.send_multipart([peer, msgspec.msgpack.encode([reply])])
                        return

        thread = threading.Thread(target=play)
        thread.start()
        client = connect(address)
        assert client.request("anything") == '"here"'
        thread.join(30)
        client.close()
    assert caplog.text.count("cannot be read") == 2


def test_a_silent_client_that_waits_sends_heartbeats(short_path: Path) -> None:
    with fake_runtime(short_path) as (address, socket):
        thread = threading.Thread(target=answer, args=(socket, msgspec.msgpack.encode([WELCOME])))
        thread.start()
        client = connect(address)
        thread.join(30)
        waiting = threading.Thread(target=client.wait, args=(lambda: False, 0.5))
        waiting.start()
        assert socket.poll(10_000)
        assert socket.recv_multipart()[1] == msgspec.msgpack.encode([["heartbeat", 0]])
        waiting.join(30)
        client.close()


def test_the_client_imports_neither_torch_nor_numpy() -> None:
    code = (
        "import sys, branchwork.runtime.wire.client, branchwork.runtime.wire.launcher\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'tokenizers', 'jinja2')))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_messages_for_a_branch_that_is_closed_reach_nobody(client: Client) -> None:
    branch, heard = open_branch(client)
    client.send([Close(branch)])
    assert client.wait(lambda: any(isinstance(event, Closed) for event in heard), 30)
    client.send([Gen(branch, "late"), Abort(branch)])
    assert client.request("stats") == "{}"
    assert [type(event) for event in heard] == [Closed]
    assert not any(isinstance(event, Tokens | Request) for event in heard)
