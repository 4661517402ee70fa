"""Ten thousand programs at once, in one thread."""

import asyncio
import json
import random
import threading
import time

import pytest

import branchwork as bw
from branchwork.runtime.wire.backend import Backend
from branchwork.testing import Answer, Scripted, mock_runtime


@bw.function
async def ask(s: bw.AsyncState, i: int) -> str:
    s += f"Question {i % 50}?\nA:" + bw.gen("a", 2, temperature=0)
    first = await s["a"]
    s += "\nAgain:" + bw.gen("b", 2, temperature=0)
    return str(first) + str(await s["b"])


async def run_and_cancel(count: int, cancelled: int, backend: Backend) -> list[object]:
    tasks = [asyncio.create_task(ask.arun(i=i, backend=backend)) for i in range(count)]
    await asyncio.sleep(0.01)
    running = [task for task in tasks if not task.done()]
    for task in random.Random(7).sample(running, cancelled):
        task.cancel()
    return await asyncio.gather(*tasks, return_exceptions=True)


def test_ten_thousand_async_programs_need_no_thread_each() -> None:
    backend = Scripted(default=Answer("x", delay_s=0.2))
    before = threading.active_count()
    results = asyncio.run(run_and_cancel(10_000, 1_000, backend))
    assert threading.active_count() <= before + 2
    assert sum(isinstance(each, bw.State) for each in results) == 9_000
    assert sum(isinstance(each, asyncio.CancelledError) for each in results) == 1_000
    backend.close()


@pytest.mark.parametrize(
    ("count", "cancelled"), [(200, 40), pytest.param(10_000, 1_000, marks=pytest.mark.slow)]
)
def test_cancelled_programs_leave_no_slot_behind(count: int, cancelled: int) -> None:
    with mock_runtime() as backend:
        before = threading.active_count()
        results = asyncio.run(run_and_cancel(count, cancelled, backend))
        assert threading.active_count() <= before + 1
        assert sum(isinstance(each, bw.State) for each in results) == count - cancelled
        deadline = time.monotonic() + 60
        while (stats := json.loads(backend.request("stats")))[
            "branches"
        ] and time.monotonic() < deadline:
            time.sleep(0.05)
        assert stats["branches"] == stats["slots_locked"] == 0
        assert stats["slots_free"] + stats["slots_cached"] == stats["slots_total"]
        assert bw.flush_cache(backend)
        stats = json.loads(backend.request("stats"))
        assert stats["slots_free"] == stats["slots_total"]
