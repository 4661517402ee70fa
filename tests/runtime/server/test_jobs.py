"""A request's branches on the event loop."""

import asyncio

import pytest
from tests.runtime.server.fake import FakeBackend, Script

from branchwork.runtime.server import jobs
from branchwork.runtime.server.errors import ApiError
from branchwork.runtime.server.generation import Generation, Prompt
from branchwork.runtime.server.jobs import Job, Pump
from branchwork.runtime.wire.messages import Closed, Failed, Gen, Text, Tokens


def asked(backend: FakeBackend, pump: Pump) -> Job:
    job = Job(backend, pump, "req_1")
    job.start([Generation(Prompt((Text(0, "hi"),)), Gen(0, "answer"))])
    return job


def test_a_request_that_cannot_take_its_event_fails_and_keeps_none_from_the_others(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waited until its client hung up, and the others until the next event of anybody."""

    def broken(event: Failed, field: str | None = None) -> ApiError:
        raise ZeroDivisionError

    monkeypatch.setattr(jobs, "from_failed", broken)

    async def scene() -> None:
        backend, pump = FakeBackend(lambda prompt, gen: Script()), Pump(asyncio.get_running_loop())
        first, second = asked(backend, pump), asked(backend, pump)
        pump.post(first, 0, Failed(1, "answer", "internal", "…"))
        pump.post(second, 0, Tokens(2, "answer", b"yes"))
        assert [event for _, event in await second.batch()] == [Tokens(2, "answer", b"yes")]
        with pytest.raises(ApiError) as caught:
            await first.batch()
        assert (caught.value.status, caught.value.code) == (500, "internal_error")
        assert [type(one).__name__ for one in backend.frames[-1]] == ["Abort"]
        pump.post(first, 0, Closed(1))

    asyncio.run(scene())
    assert "ZeroDivisionError" in caplog.text
