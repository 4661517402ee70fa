"""What cancelled and disconnected requests leave behind: nothing, if all is well.

Waves of requests are aborted, or their client hangs up, at any moment of their life; a bystander asks the same all the
while and compares. Memory is RssAnon + VmSwap of the runtime and of its grammar compiler: pages that were swapped out
still count.
"""

import argparse
import random
import time
from dataclasses import dataclass, field
from pathlib import Path

from branchwork.bench.load import Job, run_jobs, stats
from branchwork.bench.report import Line, Report
from branchwork.runtime.wire.backend import Backend
from branchwork.runtime.wire.client import Client
from branchwork.runtime.wire.launcher import RunningRuntime, launch
from branchwork.runtime.wire.messages import (
    Abort,
    Gen,
    Instruction,
    JsonSchema,
    Open,
    Regex,
    Sampling,
    Text,
)

WAVE = 100
MIB = 1 << 20

CONSTRAINTS = (
    None,
    None,
    Regex("[a-z ]*"),
    JsonSchema('{"type": "object", "additionalProperties": {"type": "integer"}}'),
)


@dataclass(slots=True)
class Found:
    """What a soak has seen."""

    ended: dict[str, int] = field(default_factory=dict)
    wrong: int = 0  # answers of the bystander that were not its first one
    memory: list[tuple[int, float]] = field(default_factory=list)  # after so many requests, MiB
    threads: list[int] = field(default_factory=list)
    files: list[int] = field(default_factory=list)


def add_options(parser: argparse.ArgumentParser) -> None:
    """What can be changed."""
    parser.add_argument("--model", default="sprout", help="model folder (default: sprout)")
    parser.add_argument("--requests", type=int, default=25_000, help="in all (default: 25000)")
    parser.add_argument(
        "--warm-up", type=int, default=15_000, help="not counted in the slope (default: 15000)"
    )


def run(options: argparse.Namespace) -> Report:
    """Slots and memory after all of them, and whether the bystander's answers stayed what they were."""
    with launch(model=options.model, kv_slots=16_384) as runtime:
        client = runtime.connect()
        found = _soak(runtime, client, options.requests)
        _settle(client)
        client.request("flush_cache")
        numbers = stats(client)
    report = Report(f"{options.requests} requests that nobody waits for", ("what", "figure"))
    for way, count in sorted(found.ended.items()):
        report.add(f"ended by {way}", count)
    report.add("slots free after a flush", numbers["slots_free"] == numbers["slots_total"])
    report.add("branches left", int(numbers["branches"]))
    report.add("answers of the bystander that changed", found.wrong)
    slope = _slope([point for point in found.memory if point[0] >= options.warm_up])
    report.add("memory, MiB per 1,000 requests after warm-up", 1000 * slope)
    report.add("memory at the end, MiB", found.memory[-1][1])
    mib = " ".join(f"{mib:.1f}" for _, mib in found.memory)
    report.line = Line("requests", "memory, MiB", tuple(found.memory))
    report.notes.append(f"MiB after every {WAVE * 5} requests: {mib}")
    report.add("threads, from and to", f"{found.threads[0]} {found.threads[-1]}")
    report.add("open files, from and to", f"{found.files[0]} {found.files[-1]}")
    return report


def _soak(runtime: RunningRuntime, client: Client, num_requests: int) -> Found:
    found, rng = Found(), random.Random(0)
    expected = _bystander(client)
    for wave in range(num_requests // WAVE):
        way = ("abort", "disconnect")[wave % 2]
        if way == "abort":
            branches = _begin(client, rng)
            time.sleep(rng.random() * 0.1)
            client.send([Abort(branch) for branch in branches])
        else:
            other = runtime.connect()
            _begin(other, rng)
            time.sleep(rng.random() * 0.1)
            other.close()
        found.ended[way] = found.ended.get(way, 0) + WAVE
        found.wrong += _bystander(client) != expected
        if wave % 5 == 4:
            _settle(client)
            found.memory.append(((wave + 1) * WAVE, _memory_mib(runtime.pid)))
            found.threads.append(len(list(Path(f"/proc/{runtime.pid}/task").iterdir())))
            found.files.append(len(list(Path(f"/proc/{runtime.pid}/fd").iterdir())))
    return found


def _begin(client: Client, rng: random.Random) -> list[int]:
    """A wave of requests: short and long prompts, long answers, some under constraints."""
    frame: list[Instruction] = []
    branches = []
    for _ in range(WAVE):
        branch = client.new_branch(lambda _: None)
        prompt = tuple(rng.randrange(300, 900) for _ in range(rng.choice((5, 50, 300))))
        sampling = Sampling(max_tokens=200, seed=rng.randrange(1 << 30))
        constraint = rng.choice(CONSTRAINTS)
        frame += [
            Open(branch),
            Text(branch, token_ids=prompt),
            Gen(branch, "answer", sampling, constraint=constraint, stream=True),
        ]
        branches.append(branch)
    client.send(frame)
    return branches


def _bystander(client: Backend) -> list[list[int]]:
    """Four requests that are always the same."""
    jobs = [Job(tuple(range(300 + n, 340 + n)), 16, ignore_eos=True) for n in range(4)]
    run_jobs(client, jobs)
    return [job.token_ids for job in jobs]


def _settle(client: Client) -> None:
    """Until nothing runs and no branch is open."""
    deadline = time.monotonic() + 30
    while stats(client)["branches"] > 0 and time.monotonic() < deadline:
        time.sleep(0.02)


def _memory_mib(pid: int) -> float:
    """RssAnon + VmSwap of a process and of those that it has started."""
    total = 0.0
    for status in _family(pid):
        for line in status.read_text().splitlines():
            name, _, value = line.partition(":")
            if name in ("RssAnon", "VmSwap"):
                total += int(value.split()[0]) * 1024 / MIB
    return total


def _family(pid: int) -> list[Path]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [
        Path(f"/proc/{pid}/status"),
        *(path for child in children for path in _family(int(child))),
    ]


def _slope(points: list[tuple[int, float]]) -> float:
    """Of the least-squares line, MiB a request."""
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    above = sum((x - mean_x) * (y - mean_y) for x, y in points)
    return above / sum((x - mean_x) ** 2 for x, _ in points)
