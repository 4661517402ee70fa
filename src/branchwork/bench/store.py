"""What a store on disk saves: the first token of a prompt whose prefix the last runtime had computed."""

import argparse
import random
import statistics
import tempfile
from collections.abc import Iterator

from branchwork.bench.load import Job, random_ids, run_jobs, stats
from branchwork.bench.report import Report
from branchwork.runtime.wire.launcher import launch

OWN_TOKENS = 16


def add_options(parser: argparse.ArgumentParser) -> None:
    """What can be changed."""
    parser.add_argument("--model", default="sprout", help="model folder (default: sprout)")
    parser.add_argument(
        "--lengths", default="1024,4064", help="tokens of the prefixes (default: 1024,4064)"
    )
    parser.add_argument("--repeat", type=int, default=5, help="prompts of each (default: 5)")


def run(options: argparse.Namespace) -> Report:
    """Milliseconds to the first token, one request at a time: computed, loaded from disk, and found in the pool."""
    lengths = [int(length) for length in options.lengths.split(",")]
    report = Report(
        f"first token of a stored prefix on {options.model}, {OWN_TOKENS} tokens of its own behind it",
        ("prefix", "computed ms", "from disk ms", "computed / disk", "from pool ms", "tokens loaded"),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as store:
        times: dict[str, list[list[float]]] = {}
        loaded: list[float] = []
        for name in ("computed", "disk"):
            with launch(model=options.model, kv_store=store, kv_slots=8 * max(lengths)) as runtime:
                client = runtime.connect()
                vocab_size = client.welcome.vocab_size
                run_jobs(client, [Job(tuple(range(5, 69)), 2, ignore_eos=True)])  # warm up
                times[name], times["pool"] = [], []
                for length in lengths:
                    before = stats(client)["store_tokens_loaded"]
                    for key in (name, "pool"):
                        times[key].append(
                            [_first_ms(client, job) for job in _jobs(vocab_size, length, options)]
                        )
                    loaded.append(stats(client)["store_tokens_loaded"] - before)
    for place, length in enumerate(lengths):
        computed, disk, pool = (
            statistics.median(times[key][place]) for key in ("computed", "disk", "pool")
        )
        each = loaded[len(lengths) + place] / options.repeat
        report.add(length, computed, disk, computed / disk, pool, each)
    report.notes.append(
        f"Medians of {options.repeat} prompts. The files may lie in the system's page cache."
    )
    return report


def _first_ms(client, job: Job) -> float:  # type: ignore[no-untyped-def]
    run_jobs(client, [job])
    return 1000 * job.times[0]


def _jobs(vocab_size: int, length: int, options: argparse.Namespace) -> Iterator[Job]:
    for seed in range(options.repeat):
        rng = random.Random(f"{length} {seed}")
        yield Job(random_ids(rng, vocab_size, length + OWN_TOKENS), 1, ignore_eos=True)
