"""Constraints: what compiles, what is right, and what compiles, masks and steps cost, beside peers that are installed.

Instances that are known to be valid or invalid are walked token by token. A schema is *right* if every valid instance
passes (with the end of sequence allowed behind it) and every invalid one is stopped somewhere.
"""

import argparse
import gc
import importlib.util
import json
import lzma
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from branchwork.bench.peers import PEERS
from branchwork.bench.regexes import CASES
from branchwork.bench.report import Report, percentile
from branchwork.runtime.grammar.bench import Engine
from branchwork.runtime.wire.errors import ConstraintError

# As the published bench has it: no more instances of one schema, no more tokens of one instance.
MAX_VALID, MAX_INVALID, MAX_TOKENS = 3, 4, 1000
_END_TOKENS = ("<|im_end|>", "<|endoftext|>", "</s>", "<|eot_id|>")


def add_options(parser: argparse.ArgumentParser) -> None:
    """What can be changed."""
    parser.add_argument("--tokenizer", type=Path, required=True, help="tokenizer.json, or its .xz")
    parser.add_argument(
        "--data", type=Path, help="folder of JSONSchemaBench subsets (*.jsonl.xz); else regexes"
    )
    parser.add_argument("--n", type=int, default=40, help="schemas per subset (default: 40)")
    parser.add_argument("--seed", type=int, default=1, help="which schemas (default: 1)")
    parser.add_argument(
        "--part",
        type=_part,
        default=(1, 1),
        metavar="I/N",
        help="every Nth of them, from the Ith on",
    )
    parser.add_argument("--peers", default=",".join(PEERS), help="beside whom, if installed")


def run(options: argparse.Namespace) -> Report:
    """One row per engine."""
    vocabulary = BenchVocabulary(options.tokenizer)
    first, step = options.part
    tasks = list(_schemas(options) if options.data else _regexes())[first - 1 :: step]
    report = Report(
        f"{len(tasks)} {'schemas' if options.data else 'regexes'}, {vocabulary.V:,} tokens",
        (
            "engine",
            "right %",
            "refused",
            "wrong accepts",
            "wrong rejects",
            "given up",
            "compile ms p50/p99/max",
            "mask us p50/p99/max",
            "accept us p50/p99",
            "forced/jumped tokens %",
        ),
    )
    engines: list[Callable[[BenchVocabulary], Any]] = [Engine]
    for name in filter(None, options.peers.split(",")):
        if importlib.util.find_spec(name):
            engines.append(PEERS[name])
        else:
            report.notes.append(f"{name} is not installed.")
    for make in engines:
        engine = make(vocabulary)
        # What the bench itself holds is nothing that a mask should pay for: the collector would look through it, 0.1 s.
        gc.collect()
        gc.freeze()
        report.add(engine.name, *_measure(engine, vocabulary, tasks).figures())
    report.notes += (
        "Masks are of first visits. Given up: texts at which the engine raised an error; they count as not taken.",
        "Forced: tokens in bytes that the grammar decides; jumped: without the last of each run, which is the model's. "
        "Of valid instances that the engine takes with fixed separators and keys in their declared order.",
    )
    return report


def _part(text: str) -> tuple[int, int]:
    """Which part of how many: `2/4` are the 2nd, the 6th, the 10th…"""
    part, parts = (int(number) for number in text.split("/"))
    if not 1 <= part <= parts:
        raise argparse.ArgumentTypeError(f"{text}: the first number is from 1 to the second")
    return part, parts


class BenchVocabulary:
    """A byte-level tokenizer as engines want it: token bytes, special ids, the end of sequence."""

    def __init__(self, path: Path) -> None:
        data = path.read_bytes()
        self.text = (lzma.decompress(data) if path.suffix == ".xz" else data).decode()
        self.tokenizer = Tokenizer.from_str(self.text)
        self.V: int = self.tokenizer.get_vocab_size()
        ids = (self.tokenizer.token_to_id(token) for token in _END_TOKENS)
        self.eos: int = next(token for token in ids if token is not None)
        self.special: list[int] = sorted(self.tokenizer.get_added_tokens_decoder())
        self.bytes = [b""] * self.V
        decode = _byte_of_char()
        for token, number in self.tokenizer.get_vocab().items():
            if number in self.special:
                self.bytes[number] = token.encode()
            else:
                self.bytes[number] = bytes(decode[char] for char in token)

    def encode(self, text: str) -> list[int]:
        """The tokens of a text."""
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)


def _byte_of_char() -> dict[str, int]:
    """The characters by which byte-level BPE writes bytes (GPT-2's table)."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {chr(byte): byte for byte in shown}
    others = (byte for byte in range(256) if byte not in shown)
    return table | {chr(256 + number): byte for number, byte in enumerate(others)}


@dataclass(frozen=True, slots=True)
class Task:
    """One constraint with texts that it must take, and texts that it must not."""

    kind: str
    constraint: Any
    valid: list[str]
    invalid: list[str]


def _schemas(options: argparse.Namespace) -> Iterator[Task]:
    for file in sorted(options.data.glob("*.jsonl.xz")):
        subset = file.name.removesuffix(".jsonl.xz")
        with lzma.open(file, "rt", encoding="utf-8") as lines:
            records = sorted((json.loads(line) for line in lines), key=lambda r: str(r["name"]))
        random.Random(f"{options.seed}/{subset}").shuffle(records)
        for record in records[: options.n]:
            texts: dict[bool, list[str]] = {True: [], False: []}
            for test in record["tests"]:
                texts[test["valid"]].append(json.dumps(test["data"], ensure_ascii=False))
            yield Task(
                "json", record["schema"], texts[True][:MAX_VALID], texts[False][:MAX_INVALID]
            )


def _regexes() -> Iterator[Task]:
    for _, pattern, valid, invalid in CASES:
        yield Task("regex", pattern, valid, invalid)


@dataclass(slots=True)
class _Figures:
    tasks: int = 0
    right: int = 0
    refused: int = 0
    wrong_accepts: int = 0
    wrong_rejects: int = 0
    given_up: int = 0
    valid: int = 0
    invalid: int = 0
    compile_ms: list[float] = field(default_factory=list)
    mask_us: list[float] = field(default_factory=list)
    accept_us: list[float] = field(default_factory=list)
    forced: int = 0
    jumped: int = 0
    tokens: int = 0

    def figures(self) -> tuple[Any, ...]:
        """The row's values."""
        return (
            100 * self.right / max(self.tasks, 1),
            self.refused,
            f"{self.wrong_accepts} of {self.invalid}",
            f"{self.wrong_rejects} of {self.valid}",
            self.given_up,
            _shares(self.compile_ms, 0.5, 0.99, 1.0),
            _shares(self.mask_us, 0.5, 0.99, 1.0),
            _shares(self.accept_us, 0.5, 0.99),
            "/".join(f"{100 * n / max(self.tokens, 1):.1f}" for n in (self.forced, self.jumped)),
        )


def _shares(values: list[float], *shares: float) -> str:
    return "/".join(f"{percentile(values or [0.0], share):.1f}" for share in shares)


def _measure(engine: Any, vocabulary: BenchVocabulary, tasks: list[Task]) -> _Figures:
    figures = _Figures()
    for task in tasks:
        # A schema without instances can be neither right nor wrong, but it can be refused.
        has_instances = bool(task.valid or task.invalid)
        figures.tasks += has_instances
        compile_ = engine.compile_json if task.kind == "json" else engine.compile_regex
        begin = time.perf_counter()
        try:
            grammar = compile_(task.constraint)
        except (ConstraintError, ValueError, RuntimeError):
            figures.refused += 1
            figures.tasks += not has_instances
            continue
        figures.compile_ms.append((time.perf_counter() - begin) * 1e3)
        taken = [_takes(engine, vocabulary, grammar, text, figures) for text in task.valid]
        not_stopped = [_takes(engine, vocabulary, grammar, text, figures) for text in task.invalid]
        rejects, accepts = taken.count(False), not_stopped.count(True)
        figures.wrong_rejects += rejects
        figures.wrong_accepts += accepts
        figures.valid += len(taken) - taken.count(None)
        figures.invalid += len(not_stopped) - not_stopped.count(None)
        figures.right += has_instances and not rejects and not accepts
        if task.kind == "json":
            _measure_forced(engine, vocabulary, task, figures)
    return figures


def _measure_forced(
    engine: Any, vocabulary: BenchVocabulary, task: Task, figures: _Figures
) -> None:
    try:
        grammar = engine.compile_compact(task.constraint)
    except (ConstraintError, ValueError, RuntimeError):
        return
    for text in task.valid:
        _count_forced(engine, vocabulary, grammar, text, figures)


def _takes(
    engine: Any, vocabulary: BenchVocabulary, grammar: Any, text: str, figures: _Figures
) -> bool | None:
    """Whether a text passes to its end, token by token. None: it is not walked that far."""
    try:
        return _walk(engine, vocabulary, grammar, text, figures)
    except (ConstraintError, ValueError, RuntimeError):
        figures.given_up += 1
        return False


def _walk(
    engine: Any, vocabulary: BenchVocabulary, grammar: Any, text: str, figures: _Figures
) -> bool | None:
    """Walk a text's tokens by mask and accept, as `_takes` says."""
    state, bits = engine.start(grammar), engine.bits
    for place, token in enumerate(vocabulary.encode(text)):
        if place == MAX_TOKENS:
            return None
        begin = time.perf_counter_ns()
        engine.mask(state)
        masked = time.perf_counter_ns()
        figures.mask_us.append((masked - begin) / 1e3)
        if not _is_set(bits, token):
            return False
        masked = time.perf_counter_ns()
        accepted = engine.accept(state, token)
        figures.accept_us.append((time.perf_counter_ns() - masked) / 1e3)
        if not accepted:
            return False
    engine.mask(state)
    return _is_set(bits, vocabulary.eos)


def _is_set(bits: "np.ndarray[Any, np.dtype[np.int32]]", token: int) -> bool:
    return bool((int(bits[token >> 5]) >> (token & 31)) & 1)


def _count_forced(
    engine: Any, vocabulary: BenchVocabulary, grammar: Any, text: str, figures: _Figures
) -> None:
    """Count a valid text's tokens, those in forced bytes, and those of them that do not end a run; if it passes."""
    state, tokens = engine.start(grammar), vocabulary.encode(text)[:MAX_TOKENS]
    forced = jumped = ahead = 0
    for place, token in enumerate(tokens):
        size = len(vocabulary.bytes[token])
        if ahead < size:
            ahead = len(engine.ff(state))
        if ahead >= size:
            forced += 1
            jumped += ahead > size or place + 1 == len(tokens)
        ahead = max(0, ahead - size)
        if not engine.accept(state, token):
            return
    figures.forced += forced
    figures.jumped += jumped
    figures.tokens += len(tokens)
