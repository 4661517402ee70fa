"""What a constraint costs and what jump-forward saves: the same requests free, constrained, and jumping."""

import argparse
import json
import random
import statistics
from functools import partial

from branchwork.bench.load import Job, random_ids, run_jobs
from branchwork.bench.report import Report
from branchwork.bench.rounds import alternate
from branchwork.runtime.wire.backend import Backend
from branchwork.runtime.wire.launcher import launch
from branchwork.runtime.wire.messages import Constraint, JsonSchema, Regex

# A record as people ask for it: keys and punctuation are most of it.
RECORD = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "city": {"type": "string", "maxLength": 12},
        "member": {"type": "boolean"},
        "status": {"enum": ["active", "inactive", "pending"]},
    },
    "required": ["name", "age", "city", "member", "status"],
    "additionalProperties": False,
}
# Anything but a line break: every step has a mask, nothing is forced, and the answer is as long as a free one.
ANY_TEXT = r"[^\n]*"


def add_options(parser: argparse.ArgumentParser) -> None:
    """What can be changed."""
    parser.add_argument("--model", default="sprout", help="model folder (default: sprout)")
    parser.add_argument("--requests", type=int, default=32, help="at once (default: 32)")
    parser.add_argument(
        "--tokens", type=int, default=64, help="new tokens of a free answer (default: 64)"
    )
    parser.add_argument(
        "--cold", action="store_true", help="time the prompts as well, not decoding alone"
    )
    parser.add_argument("--repeat", type=int, default=5, help="runs of each (default: 5)")


def run(options: argparse.Namespace) -> Report:
    """Tokens a second of each form; runs alternate, so that all meet the same machine."""
    schema = JsonSchema(json.dumps(RECORD))
    forms: dict[str, tuple[Constraint | None, bool, int]] = {
        "free": (None, True, options.tokens),
        "constrained to any text": (Regex(ANY_TEXT), True, options.tokens),
        "JSON, token by token": (schema, False, 256),
        "JSON, jump-forward": (schema, True, 256),
    }
    with launch(model=options.model) as runtime:
        run_once = partial(_run_once, runtime.connect(), options)
        found = alternate(forms, run_once, options.repeat)
    report = Report(
        f"{options.requests} requests at once on {options.model}",
        ("form", "tokens/s", "jumped", "answers/s", "over the form above"),
    )
    last = 0.0
    for name, figures in found.items():
        speed = statistics.median(tokens / seconds for seconds, tokens, _ in figures)
        answers = statistics.median(options.requests / seconds for seconds, _, _ in figures)
        jumped = sum(j for _, _, j in figures) / sum(t for _, t, _ in figures)
        ratio = {"constrained to any text": speed, "JSON, jump-forward": answers}.get(name)
        report.add(name, speed, f"{jumped:.0%}", answers, ratio / last if ratio else "")
        last = speed if name == "free" else answers
    report.notes.append(
        "Constrained over free in tokens a second; jump-forward over token by token in answers a second."
    )
    return report


def _run_once(
    client: Backend,
    options: argparse.Namespace,
    form: tuple[Constraint | None, bool, int],
    round_: int,
) -> tuple[float, int, int]:
    """Seconds, tokens and jumped tokens of one run."""
    constraint, jump, tokens = form
    rng = random.Random(f"{form} {round_}")
    jobs = [
        Job(
            random_ids(rng, client.welcome.vocab_size, 64),
            tokens,
            constraint,
            jump,
            ignore_eos=not isinstance(constraint, JsonSchema),
        )
        for _ in range(options.requests)
    ]
    if not options.cold:
        run_jobs(client, [Job(job.prompt, 0) for job in jobs])
    seconds = run_jobs(client, jobs)
    usages = [job.done.usage for job in jobs if job.done is not None]
    assert len(usages) == len(jobs), next(job.error for job in jobs if job.error)
    return seconds, sum(u.completion for u in usages), sum(u.jumped for u in usages)
