"""What only a real socket shows: bounds on headers, disconnects, slow readers, draining."""

import json
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from tests.runtime.server.conftest import attached
from tests.runtime.server.fake import FakeBackend, Script

from branchwork.runtime.server.app import build_app
from branchwork.runtime.server.config import ServerConfig
from branchwork.runtime.server.gateway import Gateway
from branchwork.runtime.server.serve import Server, bind, uvicorn_config

HI = {"messages": [{"role": "user", "content": "hi"}]}


class Socketed:
    """A gateway over a fake backend, on a port of its own and a thread of its own."""

    def __init__(self, backend: FakeBackend, **options: Any) -> None:
        self.backend = backend
        self.config = ServerConfig(port=0, **options)
        self.gateway = Gateway(self.config)
        self.bound = bind(self.config)
        self.port = self.bound.getsockname()[1]
        app = build_app(self.gateway, lambda: attached(self.gateway, backend))
        self.server = Server(uvicorn_config(app, self.config))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.bound]})
        self.thread.start()
        wait_until(lambda: self.server.started)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join(60)
        assert not self.thread.is_alive()
        self.bound.close()
        self.backend.close()


def wait_until(ready: Callable[[], Any], timeout_s: float = 60.0) -> None:
    end = time.monotonic() + timeout_s
    while not ready():
        assert time.monotonic() < end, "this never came"
        time.sleep(0.01)


@pytest.fixture
def listening() -> Iterator[Callable[..., Socketed]]:
    servers: list[Socketed] = []

    def make(script: Script | None = None, **options: Any) -> Socketed:
        backend = FakeBackend(lambda prompt, gen: script or Script())
        servers.append(Socketed(backend, **options))
        return servers[-1]

    yield make
    for server in servers:
        server.close()


def answer_to(server: Socketed, *pieces: bytes, pause_s: float = 0.0) -> bytes:
    """All that comes back for these bytes until the server closes."""
    with server.connect() as connection:
        for piece in pieces:
            try:
                connection.sendall(piece)
            except OSError:
                break
            time.sleep(pause_s)
        found = b""
        try:
            while piece := connection.recv(65_536):
                found += piece
        except ConnectionResetError:
            pass
        return found


@contextmanager
def asking(server: Socketed, **options: Any) -> Iterator[socket.socket]:
    """A connection on which a chat was asked for, and of whose answer nothing is read; it hangs up in the end."""
    body = json.dumps({**HI, **options}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n"
    with server.connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(head % len(body) + body)
        yield connection


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def test_headers_are_bounded_in_size_and_number(listening: Any) -> None:
    server = listening()
    start = b"GET /health HTTP/1.1\r\nhost: localhost\r\n"
    large = answer_to(server, start + b"x: " + b"a" * (1 << 20))
    whole = answer_to(server, start + b"x: " + b"a" * 70_000 + b"\r\n\r\n")
    many = answer_to(server, start + b"".join(b"x%d: y\r\n" % i for i in range(20_000)) + b"\r\n")
    url = answer_to(server, b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n")
    for found in (large, whole, many, url):
        assert found == b"" or status_of(found) == 431
    assert b"headers_too_large" in whole
    assert httpx.get(server.url + "/health", timeout=60).status_code == 200


def test_what_is_no_http_is_told_so_in_json(listening: Any) -> None:
    found = answer_to(listening(), b"\x16\x03\x01\x00\xa5\x01\x00\r\n\r\n")
    assert status_of(found) == 400
    assert json.loads(found.partition(b"\r\n\r\n")[2])["error"]["code"] == "invalid_http"


def test_slow_headers_and_silent_connections_are_closed(listening: Any) -> None:
    # Long enough for all pieces to be sent before: what is sent to a closed connection takes the answer with it.
    server = listening(header_timeout=1.5)
    slow = answer_to(server, b"GET /health HT", b"TP/1.1\r\nx: ", b"y", pause_s=0.02)
    assert status_of(slow) == 408
    assert status_of(answer_to(server)) == 408


def test_a_slow_body_is_refused(listening: Any) -> None:
    server = listening(body_timeout=1.5)
    head = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{"
    found = answer_to(server, head, b'"prompt"')
    assert status_of(found) == 408


def test_requests_follow_each_other_on_one_connection(listening: Any) -> None:
    server = listening(header_timeout=1.5)
    with httpx.Client(base_url=server.url, timeout=60) as client:
        for _ in range(3):
            assert client.post("/v1/chat/completions", json=HI).status_code == 200
            time.sleep(0.6)  # longer than the time, all together


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_hangs_up_aborts_its_request_at_once(listening: Any, stream: bool) -> None:
    server = listening(Script([b"one"], hold=True))
    with asking(server, stream=stream) as connection:
        wait_until(lambda: server.gateway.num_running == 1)
        found = b""
        while stream and b"one" not in found:
            found += connection.recv(65_536)
    wait_until(lambda: server.backend.aborted)
    wait_until(lambda: server.gateway.num_running == 0)


def test_all_answers_of_a_request_are_aborted_together(listening: Any) -> None:
    server = listening(Script([b"one"], hold=True))
    with asking(server, n=4):
        wait_until(lambda: server.gateway.num_running == 1)
    wait_until(lambda: len(server.backend.aborted) >= 4)


def test_a_reader_that_stops_reading_is_dropped(listening: Any) -> None:
    server = listening(Script([b"x" * 20_000] * 400, hold=True), write_timeout=0.5)
    with asking(server, stream=True):
        wait_until(lambda: server.backend.aborted)
        wait_until(lambda: server.gateway.num_running == 0)


def test_a_full_gateway_refuses_and_takes_again(listening: Any) -> None:
    server = listening(Script(hold=True), max_requests=1)
    with httpx.stream(
        "POST", server.url + "/v1/chat/completions", json={**HI, "stream": True}, timeout=60
    ) as first:
        assert first.status_code == 200
        second = httpx.post(server.url + "/v1/chat/completions", json=HI, timeout=60)
        assert second.status_code == 429
        assert second.headers["retry-after"] == "1"
        assert httpx.get(server.url + "/health", timeout=60).status_code == 200
    wait_until(lambda: server.gateway.num_running == 0)


def is_refused(server: Socketed) -> bool:
    """Whether a new connection is refused."""
    try:
        server.connect().close()
    except ConnectionRefusedError:
        return True
    return False


def test_what_runs_is_finished_before_the_server_ends(listening: Any) -> None:
    server = listening(Script([b"one"], hold=True))
    found: list[str] = []

    def read() -> None:
        answer = httpx.post(server.url + "/v1/chat/completions", json=HI, timeout=60)
        found.append(answer.json()["choices"][0]["message"]["content"])

    reader = threading.Thread(target=read)
    reader.start()
    wait_until(lambda: server.gateway.num_running == 1)
    server.server.handle_exit(signal.SIGTERM, None)
    wait_until(lambda: is_refused(server))
    server.backend.release()
    reader.join(60)
    assert found == ["one"]


def test_ctrl_c_gives_less_time_than_sigterm(listening: Any) -> None:
    server = listening()
    server.server.handle_exit(signal.SIGINT, None)
    assert server.server.config.timeout_graceful_shutdown == 8
