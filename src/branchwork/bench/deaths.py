"""How long it takes until everybody knows: a runtime that is killed, stopped or told to end, under many streams."""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException

from branchwork.bench.report import Report

BODY = {"prompt": "1 2 3", "ignore_eos": True, "temperature": 0, "stream": True}


def add_options(parser: argparse.ArgumentParser) -> None:
    """What can be changed."""
    parser.add_argument("--model", default="sprout", help="model folder (default: sprout)")
    parser.add_argument("--streams", type=int, default=100, help="at once (default: 100)")


def run(options: argparse.Namespace) -> Report:
    """Seconds from each signal to its consequences."""
    report = Report(
        f"deaths under {options.streams} streams on {options.model}",
        ("what", "seconds", "to reach"),
    )
    for scene in (_killed, _stopped, _terminated, _interrupted):
        with _server(options.model) as server:
            scene(server, options.streams, report)
    return report


class Server:
    """`branchwork serve` on a free port."""

    def __init__(self, model: str) -> None:
        command = [sys.executable, "-m", "branchwork", "serve", "--port", "0", "--model", model]
        began = time.perf_counter()
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.runtime_pid = int(self._read(r"runtime +pid (\d+)"))
        self.port = int(self._read(r"listening +http://\S+:(\d+)"))
        until(lambda: self.status("/ready") == 200)
        self.boot_s = time.perf_counter() - began

    def status(self, path: str) -> int:
        """The status of a GET."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except (OSError, HTTPException):
            return 0
        finally:
            connection.close()

    def _read(self, pattern: str) -> str:
        assert self.process.stderr is not None, "opened as a pipe"
        for line in self.process.stderr:
            if found := re.search(pattern, line):
                return found[1]
        raise RuntimeError("the server ended during its start")


class Stream:
    """One long answer, read on a thread of its own: whether it was told of the death, and when its end came."""

    def __init__(self, port: int, max_tokens: int) -> None:
        self.begun = threading.Event()
        self.is_told = self.is_whole = False
        self.ended: float | None = None
        self._ask = (port, json.dumps({**BODY, "max_tokens": max_tokens}))
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        port, body = self._ask
        connection = HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            connection.request(
                "POST", "/v1/completions", body, {"content-type": "application/json"}
            )
            for line in connection.getresponse():
                self.begun.set()
                self.is_told |= b'"runtime_unavailable"' in line
                self.is_whole |= b'"finish_reason":"length"' in line
        except (OSError, HTTPException):
            self.is_told = self.is_whole = False
        self.ended = time.perf_counter()
        self.begun.set()


def until(ready: Callable[[], bool], timeout_s: float = 120.0) -> float:
    """Wait for it; returns the time."""
    deadline = time.perf_counter() + timeout_s
    while not ready():
        if time.perf_counter() > deadline:
            raise TimeoutError("it never happened")
        time.sleep(0.01)
    return time.perf_counter()


@contextmanager
def _server(model: str) -> Iterator[Server]:
    server = Server(model)
    # What is not read would one day block the server.
    threading.Thread(target=server.process.stderr.read, daemon=True).start()  # type: ignore[union-attr]
    try:
        yield server
    finally:
        server.process.kill()
        server.process.wait()


def _streams(server: Server, count: int, max_tokens: int = 1000) -> list[Stream]:
    streams = [Stream(server.port, max_tokens) for _ in range(count)]
    for stream in streams:
        stream.begun.wait(60)
    return streams


def _last(streams: list[Stream]) -> float:
    return until(lambda: all(stream.ended for stream in streams))


def _killed(server: Server, count: int, report: Report) -> None:
    streams = _streams(server, count)
    began = time.perf_counter()
    os.kill(server.runtime_pid, signal.SIGKILL)
    red = until(lambda: server.status("/health") != 200) - began
    told = max(stream.ended or 0.0 for stream in streams) if _last(streams) else 0.0
    green = until(lambda: server.status("/ready") == 200) - began
    num_told = sum(stream.is_told for stream in streams)
    report.add(f"kill -9: {num_told} of {count} streams told", told - began, "2")
    report.add("kill -9: /health red", red, "2")
    report.add(f"kill -9: serving again (boot took {server.boot_s:.1f})", green, "boot + 2")


def _stopped(server: Server, count: int, report: Report) -> None:
    began = time.perf_counter()
    os.kill(server.runtime_pid, signal.SIGSTOP)
    red = until(lambda: server.status("/health") != 200) - began
    began = time.perf_counter()
    os.kill(server.runtime_pid, signal.SIGCONT)
    green = until(lambda: server.status("/health") == 200) - began
    report.add("SIGSTOP: /health red", red, "10")
    report.add("SIGCONT: /health green, the same process", green, "")


def _terminated(server: Server, count: int, report: Report) -> None:
    streams = _streams(server, count, max_tokens=200)
    began = time.perf_counter()
    server.process.send_signal(signal.SIGTERM)
    server.process.wait(60)
    took = time.perf_counter() - began
    _last(streams)
    num_whole = sum(stream.is_whole for stream in streams)
    report.add(f"SIGTERM: {num_whole} of {count} streams end whole, gone after", took, "drains")


def _interrupted(server: Server, count: int, report: Report) -> None:
    _streams(server, count)
    began = time.perf_counter()
    server.process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    server.process.send_signal(signal.SIGINT)
    server.process.wait(60)
    report.add("Ctrl-C twice: gone after", time.perf_counter() - began, "15")
    until(lambda: not os.path.exists(f"/proc/{server.runtime_pid}"))
    report.add("Ctrl-C twice: the runtime, too", time.perf_counter() - began, "15")
