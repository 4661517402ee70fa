"""The gateway's one state: which runtime answers at the moment, which requests run, and whether new ones are taken."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import msgspec
from starlette.requests import Request

from branchwork.runtime.server.config import ServerConfig
from branchwork.runtime.server.errors import ApiError, from_error, unavailable
from branchwork.runtime.server.generation import Generation, Limits
from branchwork.runtime.server.jobs import ClientGone, Job, Pump
from branchwork.runtime.server.metrics import Metrics
from branchwork.runtime.server.model import Model, describe
from branchwork.runtime.server.spans import Spans
from branchwork.runtime.server.stored import ResponseStore
from branchwork.runtime.wire.backend import Backend
from branchwork.runtime.wire.errors import Aborted, BranchworkError, RequestError

log = logging.getLogger(__name__)

# A sweep looks for readers that have stopped reading; the time-out itself is an option.
SWEEP_S = 1.0

SAMPLE_CHAT = {"messages": [{"role": "user", "content": "hello"}], "add_generation_prompt": True}


@dataclass(frozen=True, slots=True)
class Attached:
    """A runtime that answers, and its model; in a request, the model that it names."""

    backend: Backend
    model: Model
    limits: Limits


@dataclass(slots=True)
class Running:
    """A request with branches in the runtime. `blocked_since` is set while its reader takes nothing."""

    job: Job
    watch: asyncio.Task[None]
    began: float
    task: asyncio.Task[Any] | None = None
    blocked_since: float | None = None


class Gateway:
    """Owns the runtime's attachment and the running requests; used on the event loop alone.

    `pulse` says what is wrong with the attached runtime; its supervisor sets it. `spans`, if any, are told of requests.
    """

    def __init__(self, config: ServerConfig) -> None:
        self.config = config
        self.metrics = Metrics()
        self.responses = ResponseStore(config.max_stored, config.max_stored_bytes)
        self.spans: Spans | None = None
        self.waiting_error: str | None = None
        self.pulse: Callable[[], str | None] = lambda: None
        self._attached: Attached | None = None
        self._running: dict[str, Running] = {}
        self._pump: Pump | None = None

    async def attach(self, backend: Backend) -> None:
        """From here on requests go to `backend`. Raises BranchworkError when it does not answer."""
        loop = asyncio.get_running_loop()
        self._pump = self._pump or Pump(loop)
        backend.deliver_in_background()
        tokenizer, rendered = await asyncio.to_thread(_learn, backend)
        model = describe(self.config, backend.welcome, tokenizer, rendered)
        self._attached = Attached(backend, model, Limits(self.config, backend.welcome.vocab_size))
        self.waiting_error = None
        self.metrics.up.set(1)

    def detach(self) -> None:
        """No runtime answers: requests are refused, and those that run end in an error."""
        self._attached = None
        self.metrics.up.set(0)
        for running in list(self._running.values()):
            running.job.abort(unavailable("the runtime ended while it worked on this request"))

    @property
    def attached(self) -> Attached:
        """The runtime that answers. Raises ApiError (503) when there is none."""
        if self._attached is None:
            raise unavailable(self.waiting_error or "the runtime is starting; try again shortly")
        return self._attached

    def serving(self, name: str | None) -> Attached:
        """What answers a request for the model of this name (None: for whichever). Raises ApiError (404, 503)."""
        attached = self.attached
        return replace(attached, model=attached.model.called(name))

    @property
    def ready(self) -> bool:
        """Whether new requests would be taken."""
        return self._attached is not None

    def trouble(self) -> str | None:
        """Why no good answer can be expected at the moment, or None; reads what is known, and asks nobody."""
        if self._attached is None:
            return self.waiting_error or "no runtime answers"
        return self.pulse()

    @property
    def num_running(self) -> int:
        """Requests with branches in the runtime."""
        return len(self._running)

    async def ask(self, what: str, body: Any = None) -> Any:
        """The runtime's answer to a question beside the branches. Raises ApiError."""
        backend = self.attached.backend
        text = "{}" if body is None else msgspec.json.encode(body).decode()
        try:
            answer = await asyncio.to_thread(backend.request, what, text)
        except BranchworkError as error:
            raise from_error(error) from None
        return msgspec.json.decode(answer)

    def start(self, request: Request, generations: Sequence[Generation]) -> Running:
        """Send a request's prompts; it runs until `finish`. A client that hangs up aborts it at once.

        Raises ApiError: 429 when the gateway is full, 503 when no runtime answers.
        """
        attached = self.attached
        if len(self._running) >= self.config.max_requests:
            raise ApiError(
                f"the server already works on {self.config.max_requests} requests (--max-requests)",
                status=429,
                code="queue_full",
                retry_after_s=1.0,
            )
        assert self._pump is not None
        job = Job(attached.backend, self._pump, request.state.request_id)
        request.state.usages = job.usages
        job.start(generations)
        watch = asyncio.create_task(self._watch(request, job))
        running = Running(job, watch, request.state.began, asyncio.current_task())
        self._running[job.request_id] = running
        self.metrics.running.set(len(self._running))
        return running

    async def _watch(self, request: Request, job: Job) -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        self.metrics.disconnects.inc()
        job.abort(ClientGone())

    def finish(self, running: Running) -> None:
        """The request is over, in whichever way."""
        running.watch.cancel()
        running.job.abort(ClientGone())
        self._running.pop(running.job.request_id, None)
        self.metrics.running.set(len(self._running))
        self.metrics.whole.observe(time.monotonic() - running.began)

    @asynccontextmanager
    async def running(
        self, request: Request, generations: Sequence[Generation]
    ) -> AsyncIterator[Job]:
        """A request that is answered in one piece."""
        running = self.start(request, generations)
        try:
            yield running.job
        finally:
            self.finish(running)

    def abort(self, request_id: str) -> bool:
        """Abort the request with exactly this id; False when none runs under it."""
        running = self._running.get(request_id)
        if running is not None:
            running.job.abort(from_error(Aborted("the request was aborted")))
        return running is not None

    def abort_all(self) -> int:
        """Abort every request; returns how many ran."""
        ids = list(self._running)
        for request_id in ids:
            self.abort(request_id)
        return len(ids)

    async def sweep(self) -> None:
        """Drop streams whose reader has stopped reading; runs until it is cancelled."""
        while True:
            await asyncio.sleep(SWEEP_S)
            oldest = time.monotonic() - self.config.write_timeout
            for running in list(self._running.values()):
                since = running.blocked_since
                if since is not None and since < oldest and running.task is not None:
                    log.warning("request %s dropped: reader too slow", running.job.request_id)
                    running.task.cancel()


def _learn(backend: Backend) -> tuple[dict[str, Any], str]:
    """The runtime's "tokenizer_info", and a short chat in its template; empty where it has none of them."""
    info = _question(backend, "tokenizer_info", {})
    return info, str(_question(backend, "render", SAMPLE_CHAT).get("text", ""))


def _question(backend: Backend, what: str, body: dict[str, Any]) -> dict[str, Any]:
    try:
        answer = msgspec.json.decode(backend.request(what, msgspec.json.encode(body).decode()))
    except RequestError as error:
        log.info("the runtime answers no %s: %s", what, error)
        return {}
    return answer if isinstance(answer, dict) else {}
