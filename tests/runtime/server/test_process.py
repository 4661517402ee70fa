"""The server as a process: a runtime that is killed, SIGTERM, Ctrl-C pressed twice."""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from tests.runtime.server.real import HEADERS, PATIENCE_S, RealServer, real_server
from tests.runtime.server.sse import chunks

# Two boots and a stream, each of which may take PATIENCE_S.
pytestmark = pytest.mark.timeout(300)

# A stream of a second or two on one core.
LONG = {"prompt": "1 2 3", "max_tokens": 1500, "ignore_eos": True, "temperature": 0, "stream": True}


@pytest.fixture
def server() -> Iterator[RealServer]:
    # A stream has time to end on a machine that has other things to do.
    with real_server("--drain-timeout", str(PATIENCE_S)) as made:
        yield made


class Streaming:
    """One long answer, read on a thread of its own."""

    def __init__(self, server: RealServer) -> None:
        self.text = ""
        self.error: Exception | None = None
        self.begun = threading.Event()
        self._url = server.url
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        assert self.begun.wait(PATIENCE_S)

    def _read(self) -> None:
        try:
            with httpx.stream(
                "POST",
                self._url + "/v1/completions",
                json=LONG,
                headers=HEADERS,
                timeout=PATIENCE_S,
            ) as answer:
                for piece in answer.iter_text():
                    self.text += piece
                    self.begun.set()
        except httpx.HTTPError as error:
            self.error = error
        self.begun.set()

    def join(self) -> None:
        """Wait for its end, whichever it is."""
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()

    def end(self) -> list[dict[str, Any]]:
        """All chunks, once the stream has ended as it should."""
        self.join()
        return chunks(self.text)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until_gone(pid: int) -> None:
    end = time.monotonic() + PATIENCE_S
    while is_alive(pid):
        assert time.monotonic() < end, "an orphan"
        time.sleep(0.05)


def wait_until_refused(url: str) -> None:
    """Until the server takes no connections."""
    host, port = url.removeprefix("http://").split(":")
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        try:
            socket.create_connection((host, int(port)), timeout=PATIENCE_S).close()
        except ConnectionRefusedError:
            return
        time.sleep(0.05)
    raise AssertionError("it still takes connections")


def test_a_killed_runtime_is_replaced_while_the_gateway_stays(server: RealServer) -> None:
    stream = Streaming(server)
    os.kill(server.runtime_pid, signal.SIGKILL)
    last = stream.end()[-1]
    assert last["error"]["code"] == "runtime_unavailable"
    server.wait_for("/health", 200)
    ask = {"prompt": "1 2 3", "max_tokens": 4}
    answer = httpx.post(
        server.url + "/v1/completions", json=ask, headers=HEADERS, timeout=PATIENCE_S
    )
    assert answer.status_code == 200
    assert server.process.poll() is None


def test_sigterm_lets_streams_end_and_leaves_nothing_behind(server: RealServer) -> None:
    stream = Streaming(server)
    server.process.send_signal(signal.SIGTERM)
    last = stream.end()[-1]
    assert last["choices"][0]["finish_reason"] == "length"
    assert stream.text.endswith("data: [DONE]\n\n")
    assert server.process.wait(PATIENCE_S) == 0
    wait_until_gone(server.runtime_pid)


def test_ctrl_c_pressed_twice_ends_all_at_once(server: RealServer) -> None:
    stream = Streaming(server)
    server.process.send_signal(signal.SIGINT)
    wait_until_refused(server.url)  # a second signal in the same moment as the first is one with it
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(PATIENCE_S) == 0
    stream.join()
    assert not stream.text.endswith("data: [DONE]\n\n"), "it was let end, as after one"
    wait_until_gone(server.runtime_pid)
