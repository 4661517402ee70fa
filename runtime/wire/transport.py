"""The client's socket: frames out from any thread, frames in to the one thread that reads.

A ZeroMQ socket may be used by one thread at a time, so a short lock stands around each call; the reader sleeps outside
the lock, on file descriptors. Those of ZeroMQ signal edges: whoever sends may swallow the signal that something
has arrived, and then wakes the reader himself.
"""

import selectors
import socket as sockets
import threading
from typing import cast

import zmq
from zmq.utils.monitor import recv_monitor_message

from branchwork.runtime.wire import curve
from branchwork.runtime.wire.errors import QueueFull, RuntimeUnreachable

_LOST = zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED | zmq.EVENT_CONNECT_RETRIED
_REFUSED = (
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)

# As plain numbers: an enum's `&` costs more than the call.
_EVENTS, _POLLIN = int(zmq.EVENTS), int(zmq.POLLIN)

# ZeroMQ's own heartbeat, from its own thread, so that it needs no thread of ours: a runtime that is stopped or
# unplugged for this long counts as dead. A busy one still answers, since its ZeroMQ thread needs no Python. Longer than
# the silence after which the gateway's /health is red, so that one that goes on finds its clients waiting.
PING_MS = 1_500
PING_TIMEOUT_MS = 20_000

# Frames that wait in the socket while the runtime does not read; beyond it `send` raises QueueFull.
MAX_UNSENT_FRAMES = 100_000
MAX_READ_FRAMES = 256


def is_readable(socket: "zmq.Socket[bytes]") -> bool:
    """Whether a frame can be received without waiting. Its descriptor alone does not tell: that signals edges."""
    return bool(cast("int", socket.get(_EVENTS)) & _POLLIN)


class Transport:
    """A connection to one runtime. It is never made again: once `gone` is true, it stays so."""

    def __init__(self, address: str, key: curve.KeyPair | None) -> None:
        self.gone = False
        self._lock = threading.Lock()
        self._sleeping = False
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.linger = 0
        self._socket.sndhwm = MAX_UNSENT_FRAMES
        # What waits here is what the program has asked for. A bound would stop the reading of pings, too, and so end
        # the connection of a program that computes for a while.
        self._socket.rcvhwm = 0
        self._socket.reconnect_ivl = -1
        self._socket.heartbeat_ivl = PING_MS
        self._socket.heartbeat_timeout = PING_TIMEOUT_MS
        if key is not None:
            curve.use_as_client(self._socket, key)
        self._monitor = self._socket.get_monitor_socket(_LOST | _REFUSED)
        self._wake_out, self._wake_in = sockets.socketpair()
        self._wake_out.setblocking(False)
        self._wake_in.setblocking(False)
        self._selector = selectors.DefaultSelector()
        for source in (self._socket, self._monitor, self._wake_in):
            self._selector.register(source.fileno(), selectors.EVENT_READ)
        try:
            self._socket.connect(address)
        except zmq.ZMQError as error:
            self.close()
            raise RuntimeUnreachable(f"{address}: {error.strerror}") from error

    def send(self, frame: bytes) -> None:
        """Queue one frame; returns at once. Raises QueueFull when the runtime has not read for long."""
        with self._lock:
            if self.gone:
                return
            try:
                self._socket.send(frame, zmq.NOBLOCK)
            except zmq.Again:
                self._read_monitor()
                if self.gone:
                    self._signal()
                    return
                raise QueueFull("the runtime does not read what it is sent") from None
            if self._sleeping and is_readable(self._socket):
                self._signal()

    def receive(self) -> list[bytes]:
        """The frames that have arrived, in order; none is waited for. One thread at a time."""
        frames: list[bytes] = []
        with self._lock:
            if self._socket.closed:
                return frames
            while is_readable(self._socket) and len(frames) < MAX_READ_FRAMES:
                frames.append(self._socket.recv(zmq.NOBLOCK))
            self._sleeping = not frames
            if self._sleeping:
                self._read_monitor()
        return frames

    def sleep(self, timeout_s: float) -> None:
        """Wait until `receive` may find something, `wake` is called, or the time is over.

        To be called when `receive` has just found nothing; from then on senders take care not to swallow a signal.
        """
        for key, _ in self._selector.select(max(0.0, timeout_s)):
            if key.fd == self._wake_in.fileno():
                self._wake_in.recv(4096)
        self._sleeping = False

    def wake(self) -> None:
        """Make the reader's `sleep` return. When the connection is closed nobody sleeps, and nothing happens."""
        with self._lock:
            if not self._socket.closed:
                self._signal()

    def close(self) -> None:
        """Cut the connection; frames that are not sent yet are dropped. No thread may be in `sleep`."""
        with self._lock:
            self.gone = True
            if self._socket.closed:
                return
            self._socket.disable_monitor()
            self._monitor.close(0)
            self._socket.close(0)
            self._context.term()
            self._selector.close()
            self._wake_in.close()
            self._wake_out.close()

    def _signal(self) -> None:
        try:
            self._wake_out.send(b"\0")
        except BlockingIOError:
            return  # it has been woken many times already

    def _read_monitor(self) -> None:
        while is_readable(self._monitor):
            recv_monitor_message(self._monitor, zmq.NOBLOCK)
            self.gone = True
