"""What guessing ahead brings: `--speculate` on and off, on text that copies and on text that does not."""

import argparse
import json
import random
import statistics
from contextlib import ExitStack
from functools import partial

from branchwork.bench.load import Job, run_jobs, stats
from branchwork.bench.report import Report
from branchwork.bench.rounds import alternate
from branchwork.runtime.wire.backend import Backend
from branchwork.runtime.wire.launcher import launch

NEW_TOKENS = 128
NAMES = ("Ada Lovelace", "Alan Turing", "Grace Hopper", "Edsger Dijkstra", "Barbara Liskov")


def add_options(parser: argparse.ArgumentParser) -> None:
    """What can be changed."""
    parser.add_argument("--model", default="sprout", help="model folder (default: sprout)")
    parser.add_argument("--guesses", type=int, default=8, help="as --speculate (default: 8)")
    parser.add_argument("--streams", default="1,4,16", help="requests at once (default: 1,4,16)")
    parser.add_argument("--repeat", type=int, default=5, help="runs of each (default: 5)")


def run(options: argparse.Namespace) -> Report:
    """New tokens a second of both, medians of runs that alternate; and how many of them were guessed."""
    report = Report(
        f"guessing {options.guesses} tokens ahead on {options.model}, {NEW_TOKENS} new tokens",
        ("text", "streams", "off, tokens/s", "on, tokens/s", "on / off", "guessed right"),
        panels=(("off, tokens/s", "on, tokens/s"),),
    )
    with ExitStack() as stack:
        clients = {
            name: stack.enter_context(launch(model=options.model, speculate=guesses)).connect()
            for name, guesses in (("off", 0), ("on", options.guesses))
        }
        for text in ("copies", "free"):
            for streams in map(int, options.streams.split(",")):
                sampled = stats(clients["on"])
                speeds = alternate(clients, partial(_speed, text, streams), options.repeat)
                off, on = map(statistics.median, speeds.values())
                after = stats(clients["on"])
                guessed = after["tokens_speculated"] - sampled["tokens_speculated"]
                written = guessed + after["tokens_sampled"] - sampled["tokens_sampled"]
                report.add(text, streams, off, on, on / off, f"{guessed / written:.0%}")
    report.notes.append(
        f"Copies: greedy; free: temperature 1, of equal seeds. Medians of {options.repeat} runs."
    )
    return report


def _speed(text: str, streams: int, client: Backend, seed: int) -> float:
    """New tokens a second of one run."""
    jobs = _jobs(client, text, streams, seed)
    seconds = run_jobs(client, jobs)
    return sum(len(job.token_ids) for job in jobs) / seconds


def _jobs(client: Backend, text: str, streams: int, seed: int) -> list[Job]:
    rng = random.Random(f"{text} {seed}")
    jobs = []
    for _ in range(streams):
        if text == "copies":  # records that all look alike, and more of them to come
            name, age = rng.choice(NAMES), rng.randint(20, 80)
            written = f'{{"name": "{name}", "age": {age}, "city": "Paris"}}\n' * 6
        else:
            name = rng.choice(NAMES)
            written = f"Write some words about {name}, who lives in a town near {rng.randint(1, 99)} lakes.\n"
        body = client.request("tokenize", json.dumps({"text": written}))
        ids = tuple(json.loads(body)["token_ids"])
        # Greedy, a small model soon repeats itself, and nothing would be free in it.
        temperature = 0.0 if text == "copies" else 1.0
        jobs.append(Job(ids, NEW_TOKENS, ignore_eos=True, temperature=temperature))
    return jobs
