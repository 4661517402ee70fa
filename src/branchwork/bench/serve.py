"""Serving beside other engines: the workloads W1 to W5 on the same model, engines taking turns in one sitting."""

import argparse
import json
import os
import signal
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from branchwork.bench.load import Job, run_jobs
from branchwork.bench.peer import PEERS
from branchwork.bench.report import Report
from branchwork.bench.workloads import SCHEMA, WORKLOADS, Prompt, Workload, draw
from branchwork.runtime.models.loader import model_folder
from branchwork.runtime.wire.backend import Backend
from branchwork.runtime.wire.errors import ConfigError
from branchwork.runtime.wire.launcher import launch
from branchwork.runtime.wire.messages import JsonSchema

OURS = "branchwork"
KV_SLOTS = 65_536
"""Room for 64 requests of a thousand tokens that share nothing."""

# An engine that takes so long for one run is not asked again: the others' rounds are worth more.
SLOW_S = 60.0
WARM_UP = ("W1", "W5")


class PeerFailed(Exception):
    """A peer cannot do a workload."""


class Engine(Protocol):
    """Answers some prompts at once, greedily."""

    def run(
        self, prompts: list[Prompt], num_new: int, schema: str | None
    ) -> tuple[float, list[Prompt]]:
        """Seconds, and the new tokens of each."""
        ...


class Ours:
    """A runtime, as its clients see it: over the socket, without HTTP."""

    def __init__(self, client: Backend) -> None:
        self._client = client

    def run(
        self, prompts: list[Prompt], num_new: int, schema: str | None
    ) -> tuple[float, list[Prompt]]:
        """As `Engine.run`."""
        constraint = None if schema is None else JsonSchema(schema)
        jobs = [Job(p, num_new, constraint, ignore_eos=schema is None) for p in prompts]
        seconds = run_jobs(self._client, jobs)
        return seconds, [_answer(job) for job in jobs]


def _answer(job: Job) -> Prompt:
    assert job.done is not None, job.error
    return tuple(job.token_ids)


class Peer:
    """An engine behind `bench.peer`."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def run(
        self, prompts: list[Prompt], num_new: int, schema: str | None
    ) -> tuple[float, list[Prompt]]:
        """As `Engine.run`."""
        answer = self.ask({"prompts": prompts, "num_new": num_new, "schema": schema})
        return answer["seconds"], [tuple(ids) for ids in answer["answers"]]

    def ask(self, question: dict[str, Any] | None) -> dict[str, Any]:
        """One line in, one line out. Raises PeerFailed, also if the process has ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            if question is not None:
                self._process.stdin.write(json.dumps(question) + "\n")
                self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise PeerFailed("its process has ended")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise PeerFailed(answer["error"])
        return answer


@dataclass(slots=True)
class Entrant:
    """An engine, the workloads that it still runs, and its new tokens a second in each."""

    name: str
    engine: Engine
    workloads: set[str]
    speeds: dict[str, list[float]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)


def add_options(parser: argparse.ArgumentParser) -> None:
    """What can be changed."""
    parser.add_argument("--model", default="sprout", help="model folder (default: sprout)")
    parser.add_argument(
        "--workloads",
        type=_workloads,
        default=",".join(WORKLOADS),
        help=f"of {', '.join(WORKLOADS)} (default: all)",
    )
    parser.add_argument(
        "--peer",
        type=_peer,
        action="append",
        default=[],
        metavar="NAME=PYTHON[:W1,W2]",
        help=f"{', '.join(PEERS)}: the Python that has it, and which workloads it runs (default: all)",
    )
    parser.add_argument(
        "--profile",
        default="balanced",
        help="of our runtime: as branchwork serve (default: balanced)",
    )
    parser.add_argument(
        "--quantize",
        default="",
        metavar="int8,int4",
        help="our runtime with rounded weights too, beside the one without (default: none)",
    )
    parser.add_argument("--repeat", type=int, default=5, help="rounds (default: 5)")
    parser.add_argument(
        "--minutes", type=float, default=60.0, help="begin no round after this long (default: 60)"
    )


def run(options: argparse.Namespace) -> Report:
    """New tokens a second of each engine on each workload, and ours over each peer's."""
    workloads: list[Workload] = options.workloads
    with ExitStack() as stack:
        entrants = []
        for quantize in ["none", *filter(None, options.quantize.split(","))]:
            runtime = stack.enter_context(
                launch(
                    model=options.model,
                    kv_slots=KV_SLOTS,
                    profile=options.profile,
                    quantize=quantize,
                )
            )
            client = runtime.connect()
            name = OURS if quantize == "none" else f"{OURS} {quantize}"
            entrants.append(Entrant(name, Ours(client), {workload.name for workload in workloads}))
        for name, python, only in options.peer:
            engine = stack.enter_context(open_peer(name, python, options.model))
            entrants.append(
                Entrant(name, engine, {workload.name for workload in only or workloads})
            )
        _compete(entrants, workloads, client.welcome.vocab_size, options)
    return _report(options.model, workloads, entrants)


def _workloads(text: str) -> list[Workload]:
    """By their names, in any case."""
    known = {name.lower(): workload for name, workload in WORKLOADS.items()}
    try:
        return [known[name.strip().lower()] for name in text.split(",")]
    except KeyError as error:
        raise argparse.ArgumentTypeError(f"{error} is none of {', '.join(WORKLOADS)}") from error


def _peer(text: str) -> tuple[str, str, list[Workload] | None]:
    """Its name, its Python, and what it runs if it is not to run all."""
    name, _, rest = text.partition("=")
    python, _, only = rest.partition(":")
    return name, python, _workloads(only) if only else None


def _compete(
    entrants: list[Entrant], workloads: list[Workload], vocab_size: int, options: argparse.Namespace
) -> None:
    """Round after round, all engines on each workload."""
    for entrant in entrants:  # what is compiled or reserved at first is not to be timed
        for name in WARM_UP:
            if name in entrant.workloads:
                _try_once(entrant, WORKLOADS[name], vocab_size)
        entrant.speeds.clear()
    deadline = time.monotonic() + 60 * options.minutes
    for round_ in range(options.repeat):
        if round_ and time.monotonic() > deadline:
            return
        # In another order each round: whoever comes after another meets the caches that it left.
        first = round_ % len(entrants)
        for workload in workloads:
            for entrant in entrants[first:] + entrants[:first]:
                if workload.name in entrant.workloads:
                    seconds = _try_once(entrant, workload, vocab_size)
                    if seconds > SLOW_S:
                        entrant.workloads.discard(workload.name)


def _try_once(entrant: Entrant, workload: Workload, vocab_size: int) -> float:
    """One run, noted; a workload that fails is not run again. Returns the seconds it took."""
    try:
        seconds, tokens = _run_once(entrant.engine, workload, vocab_size)
    except PeerFailed as error:
        entrant.workloads.discard(workload.name)
        entrant.failures.append(f"{entrant.name} failed on {workload.name}: {error}")
        return 0.0
    entrant.speeds.setdefault(workload.name, []).append(tokens / seconds)
    return seconds


def _run_once(engine: Engine, workload: Workload, vocab_size: int) -> tuple[float, int]:
    """Seconds and new tokens of one run; turns of one session follow each other, sessions run together."""
    seconds, tokens = 0.0, 0
    schema = SCHEMA if workload.schema else None
    for sessions in draw(workload, vocab_size, seed=time.time_ns()):
        said: list[Prompt] = [() for _ in sessions]
        for turn in range(workload.turns):
            prompts = [text + turns[turn] for text, turns in zip(said, sessions, strict=True)]
            took, answers = engine.run(prompts, workload.new, schema)
            seconds += took
            tokens += sum(map(len, answers))
            said = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
    return seconds, tokens


def _report(model: str, workloads: list[Workload], entrants: list[Entrant]) -> Report:
    ours, *peers = entrants
    columns = [column for peer in peers for column in (peer.name, "n", f"over {peer.name}")]
    report = Report(
        f"W1 to W5 on {model}: new tokens a second",
        ("workload", "what", OURS, "n ", *columns),
        panels=((OURS, *(peer.name for peer in peers)),),
    )
    for workload in workloads:
        speeds = ours.speeds[workload.name]
        median = statistics.median(speeds)
        row: list[Any] = [workload.name, workload.what, median, len(speeds)]
        for peer in peers:
            theirs = peer.speeds.get(workload.name)
            if theirs is None:
                row += ["–", 0, "–"]
            else:
                row += [statistics.median(theirs), len(theirs), median / statistics.median(theirs)]
        report.add(*row)
    for peer in peers:
        report.notes += peer.failures
    report.notes.append(
        "Medians of n runs that alternate; no HTTP anywhere; the turns of W4 begin together. "
        "W5: tokens of the answers, jumped ones included; transformers answers it freely."
    )
    return report


@contextmanager
def open_peer(name: str, python: str, model: str) -> Iterator[Peer]:
    """A peer's process, from when it is ready."""
    if name not in PEERS or not Path(python).exists():
        raise ConfigError(f"--peer {name}={python}: must be one of {', '.join(PEERS)}=PYTHON")
    script = Path(__file__).with_name("peer.py")
    process = subprocess.Popen(
        [python, "-P", script, name, str(model_folder(model))],  # -P: this folder has an http.py
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        peer = Peer(process)
        peer.ask(None)
        yield peer
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # it has processes of its own, and nothing to save
        process.wait()
