"""What a long prompt does to those who decode beside it: the time between their tokens, by profile."""

import argparse
import itertools
import random
import threading
import time
from functools import partial
from typing import Any

from branchwork.bench.load import Job, random_ids, run_jobs
from branchwork.bench.report import Report, percentile
from branchwork.bench.rounds import medians
from branchwork.runtime.wire.backend import Backend
from branchwork.runtime.wire.launcher import launch

FORMS: dict[str, dict[str, Any]] = {
    "whole": {"profile": "throughput", "max_chunk": 1_000_000, "max_tokens_per_step": 65_536},
    "throughput": {"profile": "throughput"},
    "balanced": {"profile": "balanced"},
    "latency": {"profile": "latency"},
}
LEAD_S = 0.5
"""The streams run alone for so long before the prompt comes."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """What can be changed."""
    parser.add_argument("--model", default="sprout", help="model folder (default: sprout)")
    parser.add_argument("--streams", type=int, default=16, help="that decode (default: 16)")
    parser.add_argument("--prompt", type=int, default=8192, help="its tokens (default: 8192)")
    parser.add_argument("--tokens", type=int, default=600, help="of a stream (default: 600)")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each (default: 3)")
    parser.add_argument(
        "--forms", nargs="+", choices=FORMS, default=list(FORMS), help="how prompts are computed"
    )


def run(options: argparse.Namespace) -> Report:
    """Gaps between tokens while the prompt is computed beside those of the same streams without it."""
    report = Report(
        f"a prompt of {options.prompt} tokens among {options.streams} streams on {options.model}",
        (
            "prompts",
            "p99 gap alone ms",
            "p99 gap beside ms",
            "over alone",
            "longest ms",
            "first token s",
        ),
    )
    for name in options.forms:
        with launch(model=options.model, kv_slots=65_536, **FORMS[name]) as runtime:
            client = runtime.connect()
            _once(client, options, seed=-1)  # the pace is learnt, the code is loaded
            runs = [_once(client, options, seed) for seed in range(options.repeat)]
        alone, beside, longest, first = medians(runs)
        report.add(name, alone * 1e3, beside * 1e3, beside / alone, longest * 1e3, first)
    report.notes.append(f"Medians of {options.repeat} runs. To reach: at most 2 over alone.")
    return report


def _once(
    client: Backend, options: argparse.Namespace, seed: int
) -> tuple[float, float, float, float]:
    """Seconds: the streams' p99 gap alone, the same beside the prompt, the longest, and the prompt's first token."""
    alone, _ = _gaps(client, options, seed, with_prompt=False)
    beside, first = _gaps(client, options, seed, with_prompt=True)
    return percentile(alone, 0.99), percentile(beside, 0.99), max(beside), first


def _gaps(
    client: Backend, options: argparse.Namespace, seed: int, with_prompt: bool
) -> tuple[list[float], float]:
    """The streams' gaps, those that overlap with the computing of the prompt if it comes, and its first token."""
    rng = random.Random(f"chunks-{seed}")  # a number's sign would not count, and a prompt be cached

    ids = partial(random_ids, rng, client.welcome.vocab_size)
    streams = [Job(ids(32), options.tokens, ignore_eos=True) for _ in range(options.streams)]
    prompt = Job(ids(options.prompt), 1, ignore_eos=True)
    thread = threading.Thread(target=run_jobs, args=(client, streams))
    began = time.perf_counter()
    thread.start()
    start, stop = LEAD_S, float("inf")
    if with_prompt:
        time.sleep(LEAD_S)
        start = time.perf_counter() - began
        run_jobs(client, [prompt])
        stop = start + prompt.times[0]
    thread.join()
    gaps = [
        after - before
        for stream in streams
        for before, after in itertools.pairwise(stream.times)
        if after > start and before < stop
    ]
    return gaps, stop - start
