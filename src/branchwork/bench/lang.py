"""What the language costs: programs against a runtime process that answers at once, over the real socket."""

import argparse
import asyncio
import time
from collections.abc import Callable
from typing import Any

from branchwork import AsyncState, State, connect, function, gen, select, set_default_backend
from branchwork.bench.report import Report, median_s
from branchwork.runtime.wire.backend import Backend
from branchwork.runtime.wire.launcher import launch
from branchwork.runtime.wire.messages import BranchId, Close, Event, Gen, Open

SLOTS = 200
PROGRAMS = 2000
LONG_TEXT = "word " * 2000  # 10,000 tokens of the empty runtime, whose tokens are bytes


@function
def straight(s: State, count: int) -> None:
    """Slots that nobody reads until the end."""
    for i in range(count):
        s += "next: " + gen(f"v{i}", max_tokens=1)


@function
def reading(s: State, count: int) -> None:
    """Slots that are read one by one."""
    for i in range(count):
        s += "next: " + gen(f"v{i}", max_tokens=1)
        assert s[f"v{i}"] == "x"


@function
def one(s: State, i: int) -> None:
    """One slot, in many programs at once."""
    s += f"program {i}: " + gen("v", max_tokens=1)


@function
async def one_async(s: AsyncState, i: int) -> None:
    """The same, awaited."""
    s += f"program {i}: " + gen("v", max_tokens=1)
    await s["v"]


@function
def choosing(s: State, count: int) -> None:
    """Choices that are read one by one."""
    for i in range(count):
        s += "next: " + select(f"v{i}", choices=["yes", "no"])
        assert s[f"v{i}"] in ("yes", "no")


@function
def forking(s: State, seconds: list[float]) -> None:
    """A fork of a long branch."""
    s += LONG_TEXT + gen("first", max_tokens=1)
    assert s["first"] == "x"
    start = time.perf_counter()
    s.fork(8)
    seconds.append(time.perf_counter() - start)


def add_options(parser: argparse.ArgumentParser) -> None:
    """What can be changed."""
    parser.add_argument("--repeat", type=int, default=5, help="runs of each (default: 5)")


def run(options: argparse.Namespace) -> Report:
    """Milliseconds a slot, slots a second; beside the bare client's round trip on the same socket."""
    report = Report("the language over an empty runtime", ("what", "ms each", "a second"))
    with launch(module="branchwork.runtime.empty") as runtime:
        backend = connect(runtime.address)
        try:
            _measure(report, backend, options.repeat)
        finally:
            set_default_backend(None)
            backend.close()
    report.notes.append(
        f"Medians of {options.repeat} runs; program, client and runtime share the machine's cores."
    )
    return report


def _measure(report: Report, backend: Backend, repeat: int) -> None:
    def line(what: str, count: int, work: Callable[[], Any]) -> None:
        work()
        seconds = median_s(work, repeat)
        report.add(what, 1000 * seconds / count, count / seconds)

    line("round trip of the bare client", SLOTS, lambda: _round_trips(backend, SLOTS))
    line("slot, straight-line", SLOTS, lambda: straight.run(count=SLOTS))
    line("slot that is read", SLOTS, lambda: reading.run(count=SLOTS))
    line("select that is read", SLOTS, lambda: choosing.run(count=SLOTS))
    items = [{"i": i} for i in range(PROGRAMS)]
    line(
        f"one-slot program, {PROGRAMS} at once",
        PROGRAMS,
        lambda: one.run_batch(items, progress_bar=False),
    )
    line(
        f"one-slot async program, {PROGRAMS} at once",
        PROGRAMS,
        lambda: asyncio.run(_gather(PROGRAMS)),
    )
    forks: list[float] = []
    for _ in range(repeat):
        forking.run(seconds=forks)
    median = sorted(forks)[len(forks) // 2]
    report.add("fork(8) of a branch of 10,000 tokens", 1000 * median, 1 / median)


async def _gather(count: int) -> None:
    await asyncio.gather(*(one_async.arun(i=i) for i in range(count)))


def _round_trips(backend: Backend, count: int) -> None:
    """Send a slot and wait for its end, `count` times, with nothing of the language between."""
    ended: list[Event | BaseException] = []
    branch: BranchId = backend.new_branch(ended.append)
    backend.send([Open(branch)])
    for i in range(count):
        num_ended = len(ended)
        backend.send([Gen(branch, f"v{i}")])
        backend.wait(lambda seen=num_ended: len(ended) > seen)  # type: ignore[misc]
    backend.send([Close(branch)])
