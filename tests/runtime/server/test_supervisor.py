import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.runtime.server.fake import FakeBackend

from branchwork.runtime.server import supervisor as supervising
from branchwork.runtime.server.config import ServerConfig
from branchwork.runtime.server.errors import ApiError
from branchwork.runtime.server.gateway import Gateway
from branchwork.runtime.server.supervisor import Supervisor
from branchwork.runtime.wire.errors import ModelError


class FakeRuntime:
    """A runtime process without a process."""

    def __init__(self) -> None:
        self.backend = FakeBackend()
        self.pid = 1
        self.alive = True
        self.ended_by: str | None = None
        self.closed = False

    def connect(self, name: str = "") -> FakeBackend:
        self.backend.last_seen = time.monotonic()
        return self.backend

    def ending(self) -> str:
        return "the runtime (pid 1) was killed"

    def close(self, drain_s: float = 5.0) -> None:
        self.alive, self.ended_by, self.closed = False, self.ended_by or "close", True

    def kill(self) -> None:
        self.alive, self.ended_by = False, self.ended_by or "kill"

    def die(self) -> None:
        self.alive = False
        self.backend.die()


class Launcher:
    """Counts starts; fails those that `failing` names."""

    def __init__(self, failing: tuple[int, ...] = (), error: Exception | None = None) -> None:
        self.runtimes: list[FakeRuntime] = []
        self.starts = 0
        self.failing = failing
        self.error = error or ModelError("the folder is gone")

    def __call__(self) -> FakeRuntime:
        self.starts += 1
        if self.starts in self.failing:
            raise self.error
        self.runtimes.append(FakeRuntime())
        return self.runtimes[-1]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervising, "LOOK_S", 0.01)
    monkeypatch.setattr(supervising, "FIRST_PAUSE_S", 0.02)


async def until(ready: Callable[[], Any]) -> None:
    async with asyncio.timeout(60):
        while not ready():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def supervised(launcher: Launcher, **options: Any) -> AsyncIterator[Gateway]:
    gateway = Gateway(ServerConfig(**options))
    async with Supervisor(gateway, launcher).lifespan():
        await until(lambda: gateway.ready or launcher.starts)
        yield gateway


def test_a_runtime_that_dies_turns_health_red_and_is_replaced() -> None:
    async def scene() -> None:
        launcher = Launcher()
        async with supervised(launcher) as gateway:
            await until(lambda: gateway.ready)
            assert gateway.trouble() is None
            launcher.runtimes[0].die()
            assert gateway.trouble() == "the runtime has ended"
            await until(lambda: len(launcher.runtimes) == 2 and gateway.ready)
            assert gateway.trouble() is None
            assert launcher.runtimes[0].ended_by == "kill"
            assert launcher.runtimes[0].closed, "its pipes and its folder are left"

    asyncio.run(scene())


def test_while_no_runtime_answers_requests_are_told_to_come_back() -> None:
    async def scene() -> None:
        launcher = Launcher(failing=(1, 2))
        async with supervised(launcher) as gateway:
            await until(lambda: launcher.starts == 1 and gateway.waiting_error)
            with pytest.raises(ApiError, match="the folder is gone") as caught:
                _ = gateway.attached
            assert (caught.value.status, caught.value.retry_after_s) == (503, 1.0)
            assert gateway.trouble() is not None
            await until(lambda: gateway.ready)
            assert launcher.starts == 3
            gateway.detach()
            assert gateway.trouble() == "no runtime answers"

    asyncio.run(scene())


def test_a_start_that_fails_for_want_of_memory_is_tried_again() -> None:
    """It ended the supervisor, unheard: no runtime was ever started again."""

    async def scene() -> None:
        launcher = Launcher(failing=(1, 2), error=OSError(12, "Cannot allocate memory"))
        async with supervised(launcher) as gateway:
            await until(lambda: launcher.starts == 1 and gateway.waiting_error)
            assert gateway.trouble() == "the runtime cannot be started"
            await until(lambda: gateway.ready)
            assert launcher.starts == 3

    asyncio.run(scene())


def test_silence_turns_health_red_and_long_silence_ends_the_runtime() -> None:
    async def scene() -> None:
        launcher = Launcher()
        async with supervised(launcher, stuck_after=20.0) as gateway:
            await until(lambda: gateway.ready)
            first = launcher.runtimes[0]
            first.backend.last_seen = time.monotonic() - 21
            assert "silent" in (gateway.trouble() or "")
            assert first.alive
            first.backend.last_seen = time.monotonic() - 61
            await until(lambda: len(launcher.runtimes) == 2 and gateway.ready)
            assert first.ended_by == "kill"

    asyncio.run(scene())


def test_an_engine_that_makes_no_step_while_requests_run_is_red(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scene() -> None:
        launcher = Launcher()
        async with supervised(launcher, longest_step=1.0) as gateway:
            await until(lambda: gateway.ready)
            backend = launcher.runtimes[0].backend
            monkeypatch.setattr(Gateway, "num_running", 1)
            await until(lambda: "no step" in (gateway.trouble() or ""))
            backend.steps += 1
            await until(lambda: gateway.trouble() is None)

    asyncio.run(scene())


def test_the_runtime_ends_with_the_server() -> None:
    async def scene() -> Launcher:
        launcher = Launcher()
        async with supervised(launcher) as gateway:
            await until(lambda: gateway.ready)
        return launcher

    launcher = asyncio.run(scene())
    assert [runtime.ended_by for runtime in launcher.runtimes] == ["close"]


def test_requests_that_run_when_the_runtime_dies_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        async with supervised(Launcher()) as gateway:
            await until(lambda: gateway.ready)
            aborted: list[Exception] = []

            class Stub:
                def abort(self, reason: Exception) -> None:
                    aborted.append(reason)

            class Entry:
                job = Stub()

            monkeypatch.setattr(gateway, "_running", {"req_1": Entry()})
            gateway.detach()
            assert isinstance(aborted[0], ApiError)
            monkeypatch.setattr(gateway, "_running", {})

    asyncio.run(scene())
