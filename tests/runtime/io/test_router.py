"""The runtime's socket and its peers, within one process."""

import errno
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from branchwork.runtime.io.router import Router


@pytest.fixture
def router(short_path: Path) -> Iterator[Router]:
    bound = Router(f"ipc://{short_path}/socket", None, 1 << 20, ping_s=2.0, silence_s=60.0)
    yield bound
    bound.close()


class Peers:
    """Clients of a router, each of which has sent one frame."""

    def __init__(self, router: Router) -> None:
        self.router = router
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.sockets: list[zmq.Socket[bytes]] = []

    def join(self, read_ahead: int = 1000) -> "tuple[zmq.Socket[bytes], bytes]":
        """A new one, and the id that the router gave it."""
        socket = self.context.socket(zmq.DEALER)
        self.sockets.append(socket)
        socket.linger = 0
        socket.rcvhwm = read_ahead
        socket.connect(self.router.address)
        socket.send(b"hello")
        frames: list[tuple[bytes, bytes]] = []

        def heard() -> bool:
            frames.extend(self.router.receive())
            return bool(frames)

        until(heard, self.router)
        self.router.greet(frames[0][0])
        return socket, frames[0][0]

    def close(self) -> None:
        for socket in self.sockets:
            socket.close()
        self.context.term()


@pytest.fixture
def peers(router: Router) -> Iterator[Peers]:
    made = Peers(router)
    yield made
    made.close()


def until(condition: Callable[[], bool], router: Router) -> None:
    """Run the router until the condition holds; fail after half a minute."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "in vain"
        router.sleep(0.05)


def test_frames_come_with_their_client_and_answers_reach_it(router: Router, peers: Peers) -> None:
    first, first_id = peers.join()
    second, second_id = peers.join()
    assert first_id != second_id
    router.send(second_id, b"to the second")
    router.send(first_id, b"to the first")
    assert (first.recv(), second.recv()) == (b"to the first", b"to the second")


def test_a_client_that_hangs_up_is_gone(router: Router, peers: Peers) -> None:
    leaving, leaving_id = peers.join()
    staying, staying_id = peers.join()
    leaving.close()
    gone: list[bytes] = []

    def left() -> bool:
        gone.extend(router.tend(b"are you there"))
        return bool(gone)

    until(left, router)
    assert gone == [leaving_id]
    router.send(leaving_id, b"too late")
    router.send(staying_id, b"still here")
    while (received := staying.recv()) != b"still here":
        assert received == b"are you there"


def test_a_client_that_was_given_up_is_sent_nothing_more_though_it_speaks(
    router: Router, peers: Peers
) -> None:
    """It spoke before the io thread had heard of it, and was sent the end of a branch whose answer it had lost."""
    client, client_id = peers.join()
    staying, staying_id = peers.join()
    router.give_up(client_id)

    def say(words: bytes) -> list[tuple[bytes, bytes]]:
        client.send(words)
        staying.send(words)
        frames: list[tuple[bytes, bytes]] = []

        def heard() -> bool:
            frames.extend(router.receive())
            return (staying_id, words) in frames

        until(heard, router)
        time.sleep(0.05)
        return frames + router.receive()

    assert (client_id, b"I am here") not in say(b"I am here")
    assert router.tend(b"") == [client_id]
    assert (client_id, b"and now") in say(b"and now")
    router.send(client_id, b"what follows the lost answer")
    router.answer(client_id, b"who are you")
    assert client.recv() == b"who are you"
    assert not client.poll(100)


def test_a_client_that_does_not_read_is_remembered_within_bounds_and_then_forgotten(
    router: Router, peers: Peers
) -> None:
    router._max_unread_bytes = 1 << 20
    lazy, lazy_id = peers.join(read_ahead=1)
    reader, reader_id = peers.join()
    gone: list[bytes] = []
    for _ in range(20_000):
        router.send(lazy_id, b"x" * 4096)
        gone += router.tend(b"")
        if gone:
            break
    assert gone == [lazy_id]
    router.send(reader_id, b"still here")
    assert reader.recv() == b"still here"
    assert lazy.recv() == b"x" * 4096


def test_a_client_that_reads_late_gets_all_of_it_in_order(router: Router, peers: Peers) -> None:
    late, late_id = peers.join(read_ahead=1)
    for number in range(5000):
        router.send(late_id, b"%d " % number + b"x" * 2048)
    received: list[int] = []

    def read() -> bool:
        router.tend(b"")
        while late.poll(5):
            received.append(int(late.recv().split()[0]))
        return len(received) == 5000

    until(read, router)
    assert received == list(range(5000))


class OutOfMemory:
    """A socket that has no memory for one frame."""

    def __init__(self, socket: "zmq.Socket[bytes]", frame: bytes) -> None:
        self._socket, self._frame = socket, frame

    def __getattr__(self, name: str) -> object:
        return getattr(self._socket, name)

    def send(self, data: bytes, flags: int) -> None:
        if data == self._frame:
            raise zmq.ZMQError(errno.ENOMEM)
        self._socket.send(data, flags)


def test_a_frame_that_finds_no_memory_does_not_send_the_next_one_to_its_client(
    router: Router, peers: Peers
) -> None:
    """The other's id and frame were the rest of the message that had been begun."""
    first, first_id = peers.join()
    second, second_id = peers.join()
    router._socket = OutOfMemory(router._socket, b"to the first")  # type: ignore[assignment]
    router.send(first_id, b"to the first")
    router.send(second_id, b"to the second")
    assert second.poll(30_000)
    assert second.recv_multipart() == [b"to the second"]
    assert first.recv_multipart() == [b""]
    assert router.tend(b"") == [first_id]


def test_a_client_that_is_stopped_counts_as_gone_after_its_silence(short_path: Path) -> None:
    router = Router(f"ipc://{short_path}/socket", None, 1 << 20, ping_s=0.1, silence_s=0.5)
    code = (
        "import sys, time, zmq\n"
        "socket = zmq.Context().socket(zmq.DEALER)\n"
        "socket.connect(sys.argv[1]); socket.send(b'hello'); time.sleep(300)"
    )
    client = subprocess.Popen([sys.executable, "-c", code, router.address])
    frames: list[tuple[bytes, bytes]] = []
    gone: list[bytes] = []

    def heard() -> bool:
        frames.extend(router.receive())
        gone.extend(router.tend(b""))
        return bool(frames)

    def left() -> bool:
        gone.extend(router.tend(b""))
        return bool(gone)

    try:
        until(heard, router)
        client.send_signal(signal.SIGSTOP)
        until(left, router)
        assert gone == [frames[0][0]]
    finally:
        client.kill()
        client.wait()
        router.close()
