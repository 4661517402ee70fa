"""Many requests at once against a runtime, as instructions, without HTTP or the language between."""

import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Lock

from branchwork.runtime.wire.backend import Backend
from branchwork.runtime.wire.errors import BranchworkError
from branchwork.runtime.wire.messages import (
    Close,
    Closed,
    Constraint,
    Done,
    Event,
    Failed,
    Gen,
    Open,
    Sampling,
    Text,
    Tokens,
)


@dataclass(slots=True)
class Job:
    """One request, greedy unless told otherwise, and what became of it. Times are seconds since its start."""

    prompt: tuple[int, ...]
    max_tokens: int
    constraint: Constraint | None = None
    jump_forward: bool = True
    ignore_eos: bool = False
    temperature: float = 0.0
    adapter: str = ""
    done: Done | None = None
    error: str | None = None
    times: list[float] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)


def random_ids(rng: random.Random, vocab_size: int, count: int) -> tuple[int, ...]:
    """Token ids of a prompt that says nothing: neither bytes nor special tokens."""
    return tuple(rng.randrange(vocab_size // 4, vocab_size - 16) for _ in range(count))


def run_jobs(backend: Backend, jobs: Sequence[Job], timeout_s: float = 600.0) -> float:
    """Run all jobs at once; returns the seconds it took."""
    left, lock = len(jobs), Lock()
    start = time.perf_counter()

    def listener_for(job: Job):  # type: ignore[no-untyped-def]
        def on_event(event: Event | BranchworkError) -> None:
            nonlocal left
            if isinstance(event, Tokens):
                job.times.append(time.perf_counter() - start)
                for piece in event.runs:
                    job.token_ids += piece.token_ids
            elif isinstance(event, Done):
                job.done = event
            elif isinstance(event, Failed):
                job.error = event.message
            elif isinstance(event, Closed | BranchworkError):
                with lock:
                    left -= 1

        return on_event

    frame: list[Open | Text | Gen | Close] = []
    for job in jobs:
        branch = backend.new_branch(listener_for(job))
        sampling = Sampling(
            max_tokens=job.max_tokens,
            temperature=job.temperature,
            ignore_eos=job.ignore_eos,
            seed=0,
        )
        gen = Gen(
            branch,
            "answer",
            sampling,
            constraint=job.constraint,
            stream=True,
            jump_forward=job.jump_forward,
        )
        opening = Open(branch, keep=False, adapter=job.adapter)
        frame += [opening, Text(branch, token_ids=job.prompt), gen, Close(branch)]
    backend.send(frame)
    if not backend.wait(lambda: left == 0, timeout_s):
        raise TimeoutError(f"{left} of {len(jobs)} requests did not end within {timeout_s} s")
    return time.perf_counter() - start


def stats(backend: Backend) -> dict[str, float]:
    """The runtime's counters."""
    body: dict[str, float] = json.loads(backend.request("stats"))
    return body
