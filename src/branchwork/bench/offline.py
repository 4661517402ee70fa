"""A pile of prompts, done as fast as possible: ours without HTTP, transformers in the same run, any OpenAI server."""

import argparse
import json
import os
import random
import statistics
import sys
import time
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

from branchwork.bench.load import Job, random_ids, run_jobs
from branchwork.bench.report import Report
from branchwork.bench.serve import KV_SLOTS, OURS, Peer, PeerFailed, open_peer
from branchwork.bench.workloads import Prompt
from branchwork.runtime.wire.backend import Backend
from branchwork.runtime.wire.errors import ConfigError
from branchwork.runtime.wire.launcher import launch

MAX_PROMPTS = 100_000
MAX_FILE_BYTES = 1 << 28
PEER_BATCH = 32
"""Prompts that a peer with static batches gets at once: beyond, its padding and its cache cost more than they bring."""

URL_TIMEOUT_S = 600.0


class Engine(Protocol):
    """Answers all prompts, greedily, with `num_new` tokens each."""

    def run(self, prompts: Sequence[Prompt], num_new: int) -> tuple[float, int]:
        """Seconds, and new tokens in all."""
        ...


class Ours:
    """A runtime, all prompts at once, its cache empty before."""

    def __init__(self, client: Backend) -> None:
        self._client = client

    def run(self, prompts: Sequence[Prompt], num_new: int) -> tuple[float, int]:
        """As `Engine.run`."""
        self._client.request("flush_cache")
        jobs = [Job(prompt, num_new, ignore_eos=True) for prompt in prompts]
        seconds = run_jobs(self._client, jobs, timeout_s=3600)
        failed = [job.error for job in jobs if job.done is None]
        if failed:
            raise ConfigError(f"{len(failed)} prompts failed: {failed[0]}")
        return seconds, sum(len(job.token_ids) for job in jobs)


class Batches:
    """A peer that takes static batches: prompts of like lengths together."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    def run(self, prompts: Sequence[Prompt], num_new: int) -> tuple[float, int]:
        """As `Engine.run`."""
        ordered = sorted(prompts, key=len)
        seconds, tokens = 0.0, 0
        for first in range(0, len(ordered), PEER_BATCH):
            took, answers = self._peer.run(ordered[first : first + PEER_BATCH], num_new, None)
            seconds += took
            tokens += sum(map(len, answers))
        return seconds, tokens


class Url:
    """A server that speaks OpenAI's completions, by token ids, `concurrency` requests at a time.

    `$OPENAI_API_KEY` is sent if it is set. Raises PeerFailed.
    """

    def __init__(self, url: str, concurrency: int) -> None:
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"--url {url}: must begin with http:// or https://")
        self._url = url.rstrip("/")
        self._concurrency = concurrency
        self._model = self._ask("/models")["data"][0]["id"]

    def run(self, prompts: Sequence[Prompt], num_new: int) -> tuple[float, int]:
        """As `Engine.run`."""
        began = time.perf_counter()
        with ThreadPoolExecutor(self._concurrency) as pool:
            counts = list(pool.map(lambda prompt: self._complete(prompt, num_new), prompts))
        return time.perf_counter() - began, sum(counts)

    def _complete(self, prompt: Prompt, num_new: int) -> int:
        body = {
            "model": self._model, "prompt": list(prompt), "max_tokens": num_new,
            "temperature": 0, "ignore_eos": True,
        }  # fmt: skip
        count: int = self._ask("/completions", body)["usage"]["completion_tokens"]
        return count

    def _ask(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data)
        request.add_header("Content-Type", "application/json")
        if key := os.environ.get("OPENAI_API_KEY"):
            request.add_header("Authorization", f"Bearer {key}")
        try:
            with urllib.request.urlopen(request, timeout=URL_TIMEOUT_S) as answer:
                found: dict[str, Any] = json.load(answer)
                return found
        except (OSError, ValueError) as error:
            raise PeerFailed(f"{self._url}{path}: {error}") from error


def add_options(parser: argparse.ArgumentParser) -> None:
    """What can be changed."""
    parser.add_argument("--model", default="sprout", help="model folder (default: sprout)")
    parser.add_argument(
        "--prompts", type=Path, metavar="FILE",
        help='a prompt a line, or JSON lines with "prompt" (default: random tokens)',
    )  # fmt: skip
    parser.add_argument("--requests", type=int, default=64, help="random prompts (default: 64)")
    parser.add_argument("--length", type=int, default=256, help="their tokens (default: 256)")
    parser.add_argument("--new", type=int, default=64, help="new tokens of each (default: 64)")
    parser.add_argument(
        "--peer", action="append", metavar="NAME=PYTHON",
        help="as `bench serve` (default: transformers, of this Python); none: no peer",
    )  # fmt: skip
    parser.add_argument(
        "--url", action="append", default=[], metavar="URL",
        help="an OpenAI server that serves the same model: http://host:port/v1",
    )  # fmt: skip
    parser.add_argument(
        "--concurrency", type=int, default=32, help="requests at a time to each URL (default: 32)"
    )
    parser.add_argument("--repeat", type=int, default=3, help="rounds (default: 3)")


def run(options: argparse.Namespace) -> Report:
    """Prompts and tokens a second of each engine, medians of rounds that alternate."""
    for name in ("requests", "length", "new", "concurrency", "repeat"):
        if not 1 <= getattr(options, name) <= MAX_PROMPTS:
            raise ConfigError(f"--{name} {getattr(options, name)}: must be 1 to {MAX_PROMPTS}")
    speeds: dict[str, list[tuple[float, int]]] = {}
    notes: list[str] = []
    with ExitStack() as stack:
        runtime = stack.enter_context(launch(model=options.model, kv_slots=KV_SLOTS))
        client = runtime.connect()
        engines: dict[str, Engine] = {OURS: Ours(client)}
        for peer in options.peer or [f"transformers={sys.executable}"]:
            if peer != "none":
                name, _, python = peer.partition("=")
                try:
                    opened = stack.enter_context(open_peer(name, python, options.model))
                except PeerFailed as error:
                    notes.append(f"{name} could not be started: {error}")
                else:
                    engines[name] = Batches(opened)
        for url in options.url:
            engines[url] = Url(url, options.concurrency)
        given = _read(options.prompts, client) if options.prompts else None
        for round_ in range(options.repeat):
            prompts = given or _draw(options, client.welcome.vocab_size, round_)
            for name, engine in list(engines.items()):
                try:
                    speeds.setdefault(name, []).append(engine.run(prompts, options.new))
                except PeerFailed as error:
                    notes.append(f"{name} failed: {error}")
                    del engines[name]
            if given:  # what it has cached there is not ours to flush
                engines = {name: one for name, one in engines.items() if name not in options.url}
    return _report(options, prompts, speeds, notes)


def _report(
    options: argparse.Namespace,
    prompts: Sequence[Prompt],
    speeds: dict[str, list[tuple[float, int]]],
    notes: list[str],
) -> Report:
    num_tokens = sum(map(len, prompts))
    report = Report(
        f"{len(prompts):,} prompts of {num_tokens / len(prompts):,.0f} tokens, {options.new} new each, "
        f"on {Path(options.model).name}",
        ("engine", "n", "seconds", "prompts/s", "prompt tokens/s", "new tokens/s", "ours over it"),
        panels=(("new tokens/s",),),
    )  # fmt: skip
    ours = statistics.median(seconds for seconds, _ in speeds[OURS])
    for name, runs in speeds.items():
        if runs:
            took = statistics.median(seconds for seconds, _ in runs)
            new = statistics.median(tokens / seconds for seconds, tokens in runs)
            row = (took, len(prompts) / took, num_tokens / took, new, took / ours)
            report.add(name, len(runs), *row)
    report.notes = [
        *notes,
        "Medians of n rounds. Ours begins each with an empty cache; a URL is asked over HTTP.",
    ]
    return report


def _draw(options: argparse.Namespace, vocab_size: int, round_: int) -> list[Prompt]:
    rng = random.Random(f"{time.time_ns()} {round_}")
    return [random_ids(rng, vocab_size, options.length) for _ in range(options.requests)]


def _read(path: Path, client: Backend) -> list[Prompt]:
    """The prompts of a file as tokens. Raises ConfigError."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ConfigError(f"--prompts {path}: larger than {MAX_FILE_BYTES >> 20} MiB")
        lines = [line for line in path.read_text().splitlines() if line.strip()]
        texts = [json.loads(line)["prompt"] if line.startswith("{") else line for line in lines]
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"--prompts {path}: {error}") from error
    if not 1 <= len(texts) <= MAX_PROMPTS or not all(isinstance(text, str) for text in texts):
        raise ConfigError(f"--prompts {path}: must hold 1 to {MAX_PROMPTS} texts")
    bodies = [json.dumps({"text": text}) for text in texts]
    return [tuple(json.loads(client.request("tokenize", body))["token_ids"]) for body in bodies]
