"""What HTTP costs over the runtime: CPU for each streamed token, and time added to the first one.

The load is `bench.pulse`: a runtime that gives every stream one token at each beat. The floor is a plain uvicorn
application that writes the same bytes at the same beat without any runtime, measured in the same run.
"""

import argparse
import asyncio
import itertools
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from branchwork.bench.report import Report, percentile
from branchwork.bench.rounds import medians
from branchwork.runtime.wire.launcher import launch
from branchwork.runtime.wire.messages import Close, Done, Gen, Open, Sampling, Text, Tokens

CHUNK = (
    b'data: {"id":"cmpl-000000000000000000000000","object":"text_completion","created":1700000000,'
    b'"model":"pulse","choices":[{"index":0,"text":" word","logprobs":null,"finish_reason":null}]}\n\n'
)
EMPTY = "branchwork.runtime.empty"
PULSE = "branchwork.bench.pulse"


def add_options(parser: argparse.ArgumentParser) -> None:
    """What can be changed."""
    parser.add_argument("--streams", type=int, default=64, help="at once (default: 64)")
    parser.add_argument("--tokens", type=int, default=400, help="of each stream (default: 400)")
    parser.add_argument("--beat", type=float, default=10.0, help="between tokens, ms (default: 10)")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each (default: 3)")


def run(options: argparse.Namespace) -> Report:
    """CPU per streamed token of the gateway beside the floor, and the first token's time with and without HTTP."""
    os.environ["BRANCHWORK_PULSE_MS"] = str(options.beat)
    report = Report(
        f"{options.streams} streams of {options.tokens} tokens, one each {options.beat:g} ms",
        ("server", "CPU us/token", "tokens/s", "first token ms", "p99 gap ms"),
    )
    for name in ("floor", "gateway"):
        with _server(name, PULSE) as (port, pid):
            runs = [_measure(port, pid, options) for _ in range(options.repeat)]
        report.add(name, *medians(runs))
    alone, over_http = _first_tokens(300)
    report.notes.append(
        f"first token of a runtime that answers at once, one request at a time: "
        f"{alone:.2f} ms on its own, {over_http:.2f} ms over HTTP"
    )
    return report


def _first_tokens(count: int) -> tuple[float, float]:
    """Median milliseconds to the first token, straight from a runtime and through the gateway."""
    with launch(module=EMPTY) as runtime:
        backend = runtime.connect()
        alone = [_first_token_alone(backend) for _ in range(count)]
    with _server("gateway", EMPTY) as (port, _):
        over_http = _first_tokens_over_http(port, count)
    return statistics.median(alone), statistics.median(over_http)


def _first_tokens_over_http(port: int, count: int) -> list[float]:
    """Milliseconds to the first token of requests that follow each other on one connection."""
    body = b'{"prompt":"hi","stream":true,"max_tokens":1}'
    head = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n"
    times = []
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(count):
            began, answer = time.perf_counter(), b""
            connection.sendall(head % len(body) + body)
            while b'"text":' not in answer:
                answer += connection.recv(65_536)
            times.append((time.perf_counter() - began) * 1e3)
            while not answer.endswith(b"0\r\n\r\n"):
                answer += connection.recv(65_536)
    return times


def _first_token_alone(backend: Any) -> float:
    times: list[float] = []
    done: list[Done] = []

    def listener(event: Any) -> None:
        if isinstance(event, Tokens):
            times.append(time.perf_counter())
        elif isinstance(event, Done):
            done.append(event)

    branch = backend.new_branch(listener)
    gen = Gen(branch, "answer", Sampling(max_tokens=1), stream=True)
    began = time.perf_counter()
    backend.send([Open(branch), Text(branch, "hi"), gen, Close(branch)])
    backend.wait(lambda: bool(done))
    return (times[0] - began) * 1e3


def _measure(port: int, pid: int, options: argparse.Namespace) -> tuple[float, float, float, float]:
    before, began = _cpu_s(pid), time.perf_counter()
    streams = asyncio.run(_all_streams(port, options.streams, options.tokens))
    seconds, cpu = time.perf_counter() - began, _cpu_s(pid) - before
    tokens = options.streams * options.tokens
    gaps = [gap for _, own in streams for gap in own]
    first = statistics.median(first for first, _ in streams)
    return cpu / tokens * 1e6, tokens / seconds, first * 1e3, percentile(gaps, 0.99) * 1e3


async def _all_streams(port: int, streams: int, tokens: int) -> list[tuple[float, list[float]]]:
    return await asyncio.gather(*(_stream(port, tokens) for _ in range(streams)))


async def _stream(port: int, tokens: int) -> tuple[float, list[float]]:
    """Seconds to the first token, and between each two after it, of one request."""
    body = b'{"prompt":"hi","stream":true,"max_tokens":%d}' % tokens
    head = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    began = time.perf_counter()
    writer.write(head + b"content-length: %d\r\n\r\n" % len(body) + body)
    times = []
    seen = b""
    while piece := await reader.read(65_536):
        if b'"text":' in piece:
            times.append(time.perf_counter())
        seen = (seen + piece)[-256:]
    writer.close()
    assert b"[DONE]" in seen, f"the stream broke off: {seen!r}"
    gaps = [after - before for before, after in itertools.pairwise(times)]
    return times[0] - began, gaps


@contextmanager
def _server(name: str, module: str) -> Iterator[tuple[int, int]]:
    """A server in a process of its own; gives its port and pid."""
    port = _free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "branchwork.bench.http", name, str(port), module],
        stderr=subprocess.DEVNULL,
    )
    try:
        _await(port)
        yield port, process.pid
    finally:
        process.terminate()
        process.wait(20)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _await(port: int) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            asyncio.run(_stream(port, 1))
            return
        except (OSError, IndexError, AssertionError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def _cpu_s(pid: int) -> float:
    """Seconds of CPU a process has used, its threads together (Linux)."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((each / "schedstat").read_text().split()[0]) for each in threads) / 1e9


def serve_floor(port: int) -> None:
    """Nothing but uvicorn: each request gets the same bytes at each beat."""
    import uvicorn  # noqa: PLC0415  # only the server's process needs it

    beat_s = float(os.environ.get("BRANCHWORK_PULSE_MS", "10")) / 1e3

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body = (await receive())["body"]
        tokens = int(body.rpartition(b":")[2].rstrip(b"}"))
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for _ in range(tokens):
            await send({"type": "http.response.body", "body": CHUNK, "more_body": True})
            await asyncio.sleep(beat_s)
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})

    uvicorn.run(app, port=port, log_level="error", lifespan="off", access_log=False)


def serve_gateway(port: int, module: str) -> None:
    """The gateway over a runtime without a model."""
    from branchwork.runtime.server.config import ServerConfig  # noqa: PLC0415
    from branchwork.runtime.server.serve import serve  # noqa: PLC0415
    from branchwork.runtime.wire.config import RuntimeConfig  # noqa: PLC0415

    serve(ServerConfig(port=port), RuntimeConfig(), lambda: launch(module=module))


if __name__ == "__main__":
    if sys.argv[1] == "floor":
        serve_floor(int(sys.argv[2]))
    else:
        serve_gateway(int(sys.argv[2]), sys.argv[3])
