"""The runtime's socket: frames of many clients in, frames out, and news of those who have left.

A ROUTER socket in mandatory mode. The ids by which it knows its peers are its own: a peer that brings one is not heard.
What whoever does not read is sent waits in a bounded buffer, and when that is full, he is forgotten.
"""

import contextlib
import logging
import os
import selectors
import socket as sockets
import stat
import threading
import time
from collections import deque
from dataclasses import dataclass, field

import zmq
from zmq.utils.monitor import recv_monitor_message

from branchwork.runtime.wire import curve
from branchwork.runtime.wire.config import RuntimeConfig
from branchwork.runtime.wire.errors import ConfigError
from branchwork.runtime.wire.transport import is_readable

logger = logging.getLogger(__name__)

# Frames that wait inside ZeroMQ for one client, where nobody counts their bytes; a frame holds a client's events of one
# pass of the engine. Others wait in the backlog.
MAX_QUEUED_FRAMES = 128
MAX_READ_FRAMES = 256

# A client splits what is longer than --max-text-bytes; ZeroMQ cuts off whoever sends more than this above it.
FRAME_MARGIN_BYTES = 1 << 16

_FIRST_PART, _LAST_PART = int(zmq.NOBLOCK | zmq.SNDMORE), int(zmq.NOBLOCK)

RETRY_S = 0.02
# A peer that has hung up is known as such a moment after the monitor says that somebody has.
PROBE_DELAY_S = 0.05


@dataclass(slots=True)
class Peer:
    """A client as the socket sees it."""

    client: bytes
    last_seen: float
    is_greeted: bool = False
    backlog: deque[bytes] = field(default_factory=deque)
    backlog_bytes: int = 0


class Router:
    """One bound socket. One thread receives, sleeps and tends it; any thread may send.

    As in `runtime.wire.transport`, a short lock stands around each use of the socket, the reader sleeps outside of
    it on descriptors that signal edges, and a sender who may have swallowed a signal wakes him.
    """

    def __init__(
        self,
        address: str,
        key: curve.KeyPair | None,
        max_frame_bytes: int,
        ping_s: float,
        silence_s: float,
        max_unread_bytes: int = 64 << 20,
    ) -> None:
        self._max_unread_bytes = max_unread_bytes
        self._key = key
        self._lock = threading.Lock()
        self._peers: dict[bytes, Peer] = {}
        self._lagging: set[bytes] = set()
        self._gone: set[bytes] = set()  # and `tend` has not told so yet
        self._probe_at: float | None = None
        self._is_sleeping = False
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
        self._zap: zmq.Socket[bytes] | None = None
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.linger = 500
        self._socket.router_mandatory = True
        self._socket.sndhwm = MAX_QUEUED_FRAMES
        self._socket.maxmsgsize = max_frame_bytes
        self._socket.heartbeat_ivl = int(ping_s * 1000)
        self._socket.heartbeat_timeout = int(silence_s * 1000)
        if key is not None:
            self._zap = self._context.socket(zmq.REP)
            self._zap.linger = 0
            self._zap.bind("inproc://zeromq.zap.01")
            curve.use_as_server(self._socket, key)
        self._monitor = self._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self._wake_in, self._wake_out = os.pipe()
        os.set_blocking(self._wake_out, False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake_in, selectors.EVENT_READ)
        for source in (self._socket, self._monitor, self._zap):
            if source is not None:
                self._selector.register(source.fileno(), selectors.EVENT_READ, source)
                is_readable(source)  # a socket signals what comes after a look in vain
        try:
            self.address = self._bind(address)
        except BaseException:
            self.close()
            raise

    def sleep(self, timeout_s: float) -> None:
        """Wait until a frame can be received, `tend` has something to do, `wake` is called, or the time is over."""
        with self._lock:
            self._is_sleeping = not is_readable(self._socket)
        if not self._is_sleeping:
            timeout_s = 0.0  # the others may have signalled too
        if self._lagging:
            timeout_s = min(timeout_s, RETRY_S)
        if self._probe_at is not None:
            timeout_s = min(timeout_s, self._probe_at - time.monotonic())
        signalled = self._selector.select(max(0.0, timeout_s))
        self._is_sleeping = False
        for key, _ in signalled:
            if key.fd == self._wake_in:
                os.read(self._wake_in, 4096)
            elif key.data is self._monitor:
                self._read_monitor()
            elif key.data is self._zap:
                self._answer_zap()

    def wake(self) -> None:
        """Make `sleep` return; any thread."""
        with contextlib.suppress(BlockingIOError):  # it has been woken many times already
            os.write(self._wake_out, b"\0")

    def receive(self) -> list[tuple[bytes, bytes]]:
        """Frames that have arrived, each with its client; none is waited for."""
        frames: list[tuple[bytes, bytes]] = []
        now = time.monotonic()
        with self._lock:
            while len(frames) < MAX_READ_FRAMES and is_readable(self._socket):
                parts = self._socket.recv_multipart(zmq.NOBLOCK)
                # Ids that ROUTER makes begin with a zero byte; a peer cannot bring such a one (RFC 28).
                if len(parts) != 2 or parts[0][:1] != b"\0":
                    continue
                client = parts[0]
                if client in self._gone:
                    continue  # the io thread still knows it as the client that it was
                peer = self._peers.get(client)
                if peer is None:
                    peer = self._peers[client] = Peer(client, now)
                peer.last_seen = now
                frames.append((client, parts[1]))
        return frames

    def greet(self, client: bytes) -> None:
        """From here on a peer is sent events, too, and not only answers to what it says."""
        with self._lock:
            peer = self._peers.get(client)
            if peer is not None:
                peer.is_greeted = True

    def send(self, client: bytes, frame: bytes) -> None:
        """Send, or keep, or drop if the client is gone; never waits for a client.

        Nothing goes to a peer that was not greeted: one that was given up and speaks again must not be sent what
        comes after the answer that it has lost.
        """
        self._send(client, frame, must_be_greeted=True)

    def answer(self, client: bytes, frame: bytes) -> None:
        """As `send`, to any peer: the answer to what it has just said."""
        self._send(client, frame, must_be_greeted=False)

    def _send(self, client: bytes, frame: bytes, must_be_greeted: bool) -> None:
        with self._lock:
            peer = self._peers.get(client)
            if peer is None or (must_be_greeted and not peer.is_greeted):
                return
            if peer.backlog or not self._try(peer, frame):
                self._keep(peer, frame)
            must_wake = self._is_sleeping and (
                bool(self._gone) or bool(self._lagging) or is_readable(self._socket)
            )
        if must_wake:
            self.wake()

    def give_up(self, client: bytes) -> None:
        """Treat a client as gone; any thread."""
        with self._lock:
            peer = self._peers.get(client)
            if peer is not None:
                self._forget(peer)
        self.wake()

    def tend(self, probe: bytes) -> list[bytes]:
        """Do what is due: send what waits, find out who has left (by sending `probe`). Returns who is gone."""
        if self._probe_at is None and not self._lagging and not self._gone:
            return []
        with self._lock:
            if self._probe_at is not None and self._probe_at <= time.monotonic():
                seen_since = self._probe_at - PROBE_DELAY_S
                self._probe_at = None
                for peer in list(self._peers.values()):
                    if peer.last_seen < seen_since and not peer.backlog:
                        self._try(peer, probe)
            for client in list(self._lagging):
                self._retry(self._peers[client])
            gone, self._gone = self._gone, set()
        return list(gone)

    def close(self) -> None:
        """Send what is queued, for half a second at most, and leave. Later sends are dropped."""
        with self._lock:
            self._peers.clear()
            self._socket.disable_monitor()
            self._monitor.close(0)
            if self._zap is not None:
                self._zap.close(0)
            self._socket.close()
            self._context.term()
            self._selector.close()

    def _bind(self, address: str) -> str:
        if address.startswith("ipc://"):
            _refuse_busy_path(address)
        try:
            self._socket.bind(address)
        except zmq.ZMQError as error:
            raise ConfigError(f"--address {address}: {error.strerror}") from error
        return self._socket.get_string(zmq.LAST_ENDPOINT)

    def _try(self, peer: Peer, frame: bytes) -> bool:
        try:
            self._socket.send(peer.client, _FIRST_PART)
            self._send_rest(frame)
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                logger.warning("a client is given up: %s", error)
            self._forget(peer)
            return False
        return True

    def _send_rest(self, frame: bytes) -> None:
        try:
            self._socket.send(frame, _LAST_PART)
        except BaseException:
            # Else the next message, whoever's it is, were the rest of this one. This takes no memory.
            self._socket.send(b"", _LAST_PART)
            raise

    def _keep(self, peer: Peer, frame: bytes) -> None:
        """Keep a frame for a client that does not read at present; one that does not read at all is forgotten."""
        if peer.client not in self._peers:
            return
        peer.backlog.append(frame)
        peer.backlog_bytes += len(frame)
        self._lagging.add(peer.client)
        if peer.backlog_bytes > self._max_unread_bytes:
            logger.warning(
                "a client that does not read is given up: %d bytes wait (--max-unread-bytes)",
                peer.backlog_bytes,
            )
            self._forget(peer)

    def _retry(self, peer: Peer) -> None:
        while peer.backlog:
            if not self._try(peer, peer.backlog[0]):
                return
            peer.backlog_bytes -= len(peer.backlog.popleft())
        self._lagging.discard(peer.client)

    def _forget(self, peer: Peer) -> None:
        """Treat a client as gone; what it still sends comes from a stranger."""
        if self._peers.pop(peer.client, None) is not None:
            self._lagging.discard(peer.client)
            self._gone.add(peer.client)

    def _read_monitor(self) -> None:
        """Somebody has hung up; who, the socket knows in a moment."""
        while is_readable(self._monitor):
            recv_monitor_message(self._monitor, zmq.NOBLOCK)
            self._probe_at = time.monotonic() + PROBE_DELAY_S

    def _answer_zap(self) -> None:
        assert self._zap is not None, "it has signalled"
        assert self._key is not None, "made with the socket"
        while is_readable(self._zap):
            self._zap.send_multipart(
                curve.answer_zap(self._zap.recv_multipart(zmq.NOBLOCK), self._key)
            )


def bind(options: RuntimeConfig) -> Router:
    """The socket that the options ask for. Raises ConfigError where the address is taken, or lacks its key."""
    return Router(
        options.address,
        curve.key_for(options.address, options.key_file),
        max_frame_bytes=options.max_text_bytes + FRAME_MARGIN_BYTES,
        ping_s=options.heartbeat_s,
        silence_s=options.client_timeout_s,
        max_unread_bytes=options.max_unread_bytes,
    )


def _refuse_busy_path(address: str) -> None:
    # ZeroMQ takes over a socket file in silence, so ask who is there.
    path = address.removeprefix("ipc://")
    if not path or path.startswith(("@", "*")):
        raise ConfigError(f"--address {address}: must name a file")
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise ConfigError(f"--address {address}: a file that is no socket is there")
    except FileNotFoundError:
        return
    with sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return
        except OSError as error:
            raise ConfigError(f"--address {address}: {error.strerror}") from error
    raise ConfigError(f"--address {address}: another process listens there")
