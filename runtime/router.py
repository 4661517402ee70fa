"""The runtime's socket: frames of many clients in, frames out, and news of those who have left.

A ROUTER socket in mandatory mode. The ids by which it knows its peers are its own: a peer that brings one is not heard.
Whoever does not read is remembered in a bounded buffer, and forgotten when that is full.
"""

import math
import os
import socket as sockets
import stat
import time
from collections import deque
from dataclasses import dataclass, field

import zmq
from zmq.utils.monitor import recv_monitor_message

from branchwork.runtime.config import RuntimeConfig
from branchwork.runtime.wire import curve
from branchwork.runtime.wire.errors import ConfigError
from branchwork.runtime.wire.transport import is_readable

# Frames that wait inside ZeroMQ for one client; a frame holds a client's events of one pass of the engine.
MAX_QUEUED_FRAMES = 1000
# What waits outside of it, when that is full. Beyond, the client counts as gone.
MAX_BACKLOG_BYTES = 64 << 20
MAX_READ_FRAMES = 256

# A client splits what is longer than --max-text-bytes; ZeroMQ cuts off whoever sends more than this above it.
FRAME_MARGIN_BYTES = 1 << 16

RETRY_S = 0.02
# A peer that has hung up is known as such a moment after the monitor says that somebody has.
PROBE_DELAY_S = 0.05


@dataclass(slots=True)
class Peer:
    """A client as the socket sees it."""

    client: bytes
    last_seen: float
    backlog: deque[bytes] = field(default_factory=deque)
    backlog_bytes: int = 0


class Router:
    """One bound socket. Everything in here belongs to the thread that calls it."""

    def __init__(
        self,
        address: str,
        key: curve.KeyPair | None,
        max_frame_bytes: int,
        ping_s: float,
        silence_s: float,
    ) -> None:
        self._key = key
        self._peers: dict[bytes, Peer] = {}
        self._lagging: set[bytes] = set()
        self._gone: list[bytes] = []
        self._probe_at: float | None = None
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
        self._poller = zmq.Poller()
        for source in (self._socket, self._monitor, self._zap):
            if source is not None:
                self._poller.register(source, zmq.POLLIN)
        try:
            self.address = self._bind(address)
        except BaseException:
            self.close()
            raise

    def watch(self, fd: int) -> None:
        """Let `sleep` return when `fd` is readable, too."""
        self._poller.register(fd, zmq.POLLIN)

    def sleep(self, timeout_s: float) -> None:
        """Wait until something is readable, or this socket has something to do, or the time is over."""
        if self._lagging:
            timeout_s = min(timeout_s, RETRY_S)
        if self._probe_at is not None:
            timeout_s = min(timeout_s, self._probe_at - time.monotonic())
        self._poller.poll(max(0, math.ceil(timeout_s * 1000)))

    def receive(self) -> list[tuple[bytes, bytes]]:
        """Frames that have arrived, each with its client; none is waited for."""
        frames: list[tuple[bytes, bytes]] = []
        now = time.monotonic()
        while len(frames) < MAX_READ_FRAMES and is_readable(self._socket):
            parts = self._socket.recv_multipart(zmq.NOBLOCK)
            # Ids that ROUTER makes begin with a zero byte; a peer cannot bring such a one (RFC 28).
            if len(parts) != 2 or parts[0][:1] != b"\0":
                continue
            client = parts[0]
            peer = self._peers.get(client)
            if peer is None:
                peer = self._peers[client] = Peer(client, now)
            peer.last_seen = now
            frames.append((client, parts[1]))
        return frames

    def send(self, client: bytes, frame: bytes) -> None:
        """Send, or keep, or drop if the client is gone; never waits."""
        peer = self._peers.get(client)
        if peer is None:
            return
        if not peer.backlog and self._try(peer, frame):
            return
        if client not in self._peers:
            return
        peer.backlog.append(frame)
        peer.backlog_bytes += len(frame)
        self._lagging.add(client)
        if peer.backlog_bytes > MAX_BACKLOG_BYTES:
            self.forget(client)

    def tend(self, probe: bytes) -> list[bytes]:
        """Do what is due: send what waits, admit by key, notice who left (by sending `probe`). Returns who is gone."""
        self._answer_zap()
        while is_readable(self._monitor):
            recv_monitor_message(self._monitor, zmq.NOBLOCK)
            self._probe_at = time.monotonic() + PROBE_DELAY_S
        if self._probe_at is not None and self._probe_at <= time.monotonic():
            seen_since = self._probe_at - PROBE_DELAY_S
            self._probe_at = None
            for peer in list(self._peers.values()):
                if peer.last_seen < seen_since and not peer.backlog:
                    self._try(peer, probe)
        for client in list(self._lagging):
            self._retry(self._peers[client])
        gone, self._gone = self._gone, []
        return gone

    def forget(self, client: bytes) -> None:
        """Treat a client as gone; what it still sends comes from a stranger."""
        if self._peers.pop(client, None) is not None:
            self._lagging.discard(client)
            self._gone.append(client)

    def close(self) -> None:
        """Send what is queued, for half a second at most, and leave."""
        self._socket.disable_monitor()
        self._monitor.close(0)
        if self._zap is not None:
            self._zap.close(0)
        self._socket.close()
        self._context.term()

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
            self._socket.send_multipart((peer.client, frame), zmq.NOBLOCK)
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            self.forget(peer.client)
            return False
        return True

    def _retry(self, peer: Peer) -> None:
        while peer.backlog:
            if not self._try(peer, peer.backlog[0]):
                return
            peer.backlog_bytes -= len(peer.backlog.popleft())
        self._lagging.discard(peer.client)

    def _answer_zap(self) -> None:
        if self._zap is None or self._key is None:
            return
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
