"""Keeps one runtime behind the gateway: starts it again when it dies or stands still, and stops it at the end."""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Protocol

from branchwork.runtime.server.gateway import Gateway
from branchwork.runtime.wire.backend import Backend
from branchwork.runtime.wire.errors import BranchworkError

log = logging.getLogger(__name__)

LOOK_S = 0.25
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
# A runtime that lived this long did not die of its start; the next pause is the first one again.
SETTLED_S = 60.0
# Red first, ended later: a machine that was suspended comes back by itself.
PATIENCE = 3


class Client(Backend, Protocol):
    """A backend of which can be seen that it lives."""

    @property
    def alive(self) -> bool:
        """Whether the connection stands."""
        ...

    @property
    def steps(self) -> int:
        """Forward passes so far, as the last heartbeat said."""
        ...

    @property
    def last_seen(self) -> float:
        """`time.monotonic()` of the runtime's last sign of life."""
        ...


class Runtime(Protocol):
    """A runtime process, as the launcher gives it."""

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        ...

    @property
    def pid(self) -> int:
        """The process."""
        ...

    def connect(self, name: str = "") -> Client:
        """A connection to it."""
        ...

    def ending(self) -> str:
        """How it ended, as a sentence."""
        ...

    def close(self, drain_s: float = 5.0) -> None:
        """End it, with time for what runs."""
        ...

    def kill(self) -> None:
        """End it now."""
        ...


Launch = Callable[[], Runtime]


class Supervisor:
    """Owns the runtime process. `launch` blocks until the runtime answers, and raises SetupError."""

    def __init__(self, gateway: Gateway, launch: Launch, first: Runtime | None = None) -> None:
        self._gateway = gateway
        self._launch = launch
        self._runtime = first
        self._client: Client | None = None
        self._steps = 0
        self._stepped = time.monotonic()
        gateway.pulse = self.trouble

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Around the life of the application."""
        task = asyncio.create_task(self._run())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            self._gateway.detach()
            await asyncio.to_thread(self._end)

    def _end(self) -> None:
        if self._client is not None:
            self._client.close()
        if self._runtime is not None:
            self._runtime.close()

    def trouble(self) -> str | None:
        """Why the runtime is no good at the moment; None when it is well. Costs the runtime nothing."""
        runtime, client = self._runtime, self._client
        if runtime is None or client is None:
            return "the runtime is starting"
        if not (runtime.alive and client.alive):
            return "the runtime has ended"
        now, config = time.monotonic(), self._gateway.config
        if now - client.last_seen > config.stuck_after:
            return f"the runtime has been silent for {now - client.last_seen:.0f} s"
        if now - self._stepped > config.longest_step:
            return f"the runtime has made no step for {now - self._stepped:.0f} s"
        return None

    async def _run(self) -> None:
        pause = FIRST_PAUSE_S
        while True:
            began = time.monotonic()
            try:
                await self._serve_one()
            except BranchworkError as error:
                log.error("the runtime cannot be started: %s", error)
                self._gateway.waiting_error = f"the runtime cannot be started: {error}"
            except Exception:
                # The boundary: a machine without memory or files for it may have some later.
                log.exception("the runtime cannot be started")
                self._gateway.waiting_error = "the runtime cannot be started"
            if time.monotonic() - began > SETTLED_S:
                pause = FIRST_PAUSE_S
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_S)

    async def _serve_one(self) -> None:
        """From a runtime's start to its end."""
        if self._runtime is None:
            self._runtime = await _in_thread(self._launch)
        runtime = self._runtime
        self._gateway.metrics.starts.inc()
        try:
            self._client = await asyncio.to_thread(runtime.connect, "gateway")
            await self._gateway.attach(self._client)
            await self._watch(runtime, self._client)
        finally:
            if not self._cancelling():
                self._gateway.detach()
                await asyncio.to_thread(self._discard)

    @staticmethod
    def _cancelling() -> bool:
        task = asyncio.current_task()
        return task is not None and task.cancelling() > 0

    def _discard(self) -> None:
        client, self._client = self._client, None
        runtime, self._runtime = self._runtime, None
        if client is not None:
            client.close()
        if runtime is not None:
            runtime.kill()
            log.error("%s; starting another", runtime.ending())
            runtime.close(0.0)  # its pipes and its folder

    async def _watch(self, runtime: Runtime, client: Client) -> None:
        """Until the runtime dies, or has stood still for so long that it will not come back."""
        config = self._gateway.config
        self._steps, self._stepped = client.steps, time.monotonic()
        while runtime.alive and client.alive:
            now = time.monotonic()
            if client.steps != self._steps or not self._gateway.num_running:
                self._steps, self._stepped = client.steps, now
            silent = now - client.last_seen > PATIENCE * config.stuck_after
            if silent or now - self._stepped > PATIENCE * config.longest_step:
                log.error("the runtime (pid %d) is stuck", runtime.pid)
                return
            await asyncio.sleep(LOOK_S)


async def _in_thread(launch: Launch) -> Runtime:
    """`launch()` on a thread of its own, which the interpreter does not wait for when it ends.

    asyncio's pool would: a server that is stopped while a large model loads would wait for the model.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Runtime] = loop.create_future()

    def settle(runtime: Runtime | None, error: Exception | None) -> None:
        if done.cancelled():
            if runtime is not None:
                runtime.kill()
        elif error is not None:
            done.set_exception(error)
        elif runtime is not None:
            done.set_result(runtime)

    def work() -> None:
        try:
            outcome: tuple[Runtime | None, Exception | None] = (launch(), None)
        except Exception as error:
            outcome = (None, error)
        with suppress(
            RuntimeError
        ):  # the loop is closed: nobody waits, and the runtime ends with us
            loop.call_soon_threadsafe(settle, *outcome)

    threading.Thread(target=work, name="branchwork-launch", daemon=True).start()
    return await done
