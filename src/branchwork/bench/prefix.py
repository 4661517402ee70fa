"""What sharing a prefix saves: 64 requests with 1,000 tokens in common, the cache on and off."""

import argparse
import random
from functools import partial

from branchwork.bench.load import Job, random_ids, run_jobs, stats
from branchwork.bench.report import Report
from branchwork.runtime.wire.launcher import launch

NEW_TOKENS = 8


def add_options(parser: argparse.ArgumentParser) -> None:
    """What can be changed."""
    parser.add_argument("--model", default="sprout", help="model folder (default: sprout)")
    parser.add_argument("--requests", type=int, default=64, help="how many (default: 64)")
    parser.add_argument("--shared", type=int, default=1000, help="tokens in common (default: 1000)")
    parser.add_argument("--own", type=int, default=16, help="tokens of their own (default: 16)")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each (default: 3)")


def run(options: argparse.Namespace) -> Report:
    """Tokens computed beside what a perfect cache would compute, and throughput beside the cache switched off."""
    report = Report(
        f"{options.requests} requests, {options.shared} tokens shared, {options.own} own, {NEW_TOKENS} new",
        (
            "cache",
            "seconds",
            "requests/s",
            "tokens computed",
            "over perfect",
            "throughput over off",
        ),
    )
    perfect = options.shared + options.requests * (options.own + NEW_TOKENS - 1)
    seconds = {}
    for cache in (False, True):
        with launch(model=options.model, prefix_cache=cache) as runtime:
            client = runtime.connect()
            run_jobs(client, _jobs(client.welcome.vocab_size, options, seed=0))
            runs = []
            for seed in range(1, options.repeat + 1):
                before = stats(client)["tokens_computed"]
                took = run_jobs(client, _jobs(client.welcome.vocab_size, options, seed))
                runs.append((took, int(stats(client)["tokens_computed"] - before)))
        took, computed = sorted(runs)[len(runs) // 2]
        seconds[cache] = took
        report.add(
            "on" if cache else "off",
            took,
            options.requests / took,
            computed,
            computed / perfect,
            seconds[False] / took,
        )
    report.notes.append(
        f"A perfect cache computes {perfect:,} tokens. Medians of {options.repeat} runs, prefix cold."
    )
    return report


def _jobs(vocab_size: int, options: argparse.Namespace, seed: int) -> list[Job]:
    ids = partial(random_ids, random.Random(seed), vocab_size)
    shared = ids(options.shared)
    return [
        Job(shared + ids(options.own), NEW_TOKENS, ignore_eos=True) for _ in range(options.requests)
    ]
