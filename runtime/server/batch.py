"""`branchwork batch`: a file of requests in OpenAI's batch form, answered into another, without a socket.

Answers are appended as they come, each a whole line, so that an interrupted run goes on where it stopped.
"""

import asyncio
import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import msgspec
from starlette.types import ASGIApp, Message
from tqdm import tqdm

from branchwork.runtime.server.answers import new_id
from branchwork.runtime.server.app import build_app
from branchwork.runtime.server.config import ServerConfig
from branchwork.runtime.server.errors import ApiError, openai_body
from branchwork.runtime.server.gateway import Gateway
from branchwork.runtime.server.supervisor import Launch, Supervisor
from branchwork.runtime.wire.errors import ConfigError

# What a later try may change: a full queue, or a runtime that is being started again.
AGAIN = (429, 503)
PAUSES_S = (0.25, 0.5, 1, 2, 4, 8, 15, 30, 60)


class BatchLine(msgspec.Struct):
    """One line of the input."""

    custom_id: str
    url: str
    body: dict[str, Any]
    method: str = "POST"


@dataclass(slots=True)
class BatchResult:
    """How a run ended, in lines."""

    answered: int = 0
    failed: int = 0
    skipped: int = 0


def run_batch(
    source: Path, target: Path, start: Launch, concurrency: int = 64, progress: bool = True
) -> BatchResult:
    """Answer every line of `source` whose id is not in `target` yet. Raises ConfigError for files that cannot be used.

    A line that is no request, or that the server refuses, gets an answer that says so.
    """
    if not source.is_file():
        raise ConfigError(f"{source}: there is no such file")
    done = finished_ids(target)
    lines = [line for line in _lines(source) if line.strip()]
    with target.open("a", encoding="utf-8") as out:
        batch = _Batch(out, done, tqdm(total=len(lines), unit="req", disable=not progress))
        asyncio.run(batch.run(lines, start, concurrency))
    return batch.result


def _lines(source: Path) -> Iterator[bytes]:
    with source.open("rb") as file:
        yield from file


def finished_ids(target: Path) -> set[str]:
    """The ids that `target` already answers; a last line that was cut off is removed.

    Raises ConfigError when the file holds anything else.
    """
    if not target.exists():
        return set()
    ids, whole = set(), 0
    with target.open("rb+") as file:
        for line in file:
            if not line.endswith(b"\n"):
                file.truncate(whole)
                break
            try:
                ids.add(str(msgspec.json.decode(line)["custom_id"]))
            except (msgspec.DecodeError, KeyError, TypeError):
                raise ConfigError(f"{target}: exists and holds no batch answers") from None
            whole += len(line)
    return ids


class _Batch:
    """One run."""

    def __init__(self, out: TextIO, done: set[str], bar: "tqdm[Any]") -> None:
        self.result = BatchResult()
        self._out = out
        self._done = done
        self._bar = bar

    async def run(self, lines: list[bytes], start: Launch, concurrency: int) -> None:
        """Answer the lines, some at once."""
        gateway = Gateway(ServerConfig(max_requests=max(concurrency, 1)))
        supervisor = Supervisor(gateway, start, await asyncio.to_thread(start))
        app = build_app(gateway, supervisor.lifespan)
        async with supervisor.lifespan():
            waiting = iter(lines)
            await asyncio.gather(*(self._work(app, waiting) for _ in range(concurrency)))
        self._bar.close()

    async def _work(self, app: ASGIApp, lines: Iterator[bytes]) -> None:
        for line in lines:
            await self._answer(app, line)
            self._bar.update()

    async def _answer(self, app: ASGIApp, raw: bytes) -> None:
        try:
            line = msgspec.json.decode(raw, type=BatchLine)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self._write(None, 400, "", openai_body(ApiError(f"this line is no request: {error}")))
            return
        if line.custom_id in self._done:
            self.result.skipped += 1
            return
        self._done.add(line.custom_id)
        answer = await _post(app, line.url, msgspec.json.encode(line.body))
        for pause_s in PAUSES_S:
            if answer[0] not in AGAIN:
                break
            await asyncio.sleep(pause_s)
            answer = await _post(app, line.url, msgspec.json.encode(line.body))
        self._write(line.custom_id, *answer)

    def _write(self, custom_id: str | None, status: int, request_id: str, body: bytes) -> None:
        good = status == 200
        self.result.answered += good
        self.result.failed += not good
        try:
            content = json.loads(body)
        except ValueError:
            content = body.decode(errors="replace")
        answer = {
            "id": new_id("batch_req_"),
            "custom_id": custom_id,
            "response": {"status_code": status, "request_id": request_id, "body": content},
            "error": None,
        }
        self._out.write(msgspec.json.encode(answer).decode() + "\n")
        self._out.flush()


async def _post(app: ASGIApp, url: str, body: bytes) -> tuple[int, str, bytes]:
    """One request to the application itself: its status, its id and its whole answer."""
    sent: list[Message] = []
    never: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
    asked = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> Message:
        return next(asked, None) or await never

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": url,
        "raw_path": url.encode(),
        "query_string": b"",
        "headers": [],
        "server": ("localhost", 80),
    }
    with contextlib.suppress(Exception):  # the application has answered 500 and logged why
        await app(scope, receive, send)
    headers = {name: value.decode() for name, value in sent[0]["headers"]}
    text = b"".join(message.get("body", b"") for message in sent[1:])
    return sent[0]["status"], headers.get(b"x-request-id", ""), text
