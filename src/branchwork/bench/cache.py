"""How much of what could be found in the cache is found, and what the search costs (CPU time of the engine's thread).

Ten kinds of programs run at once on an engine in this process. The optimum is that of an oracle with all the memory in
the world, which serves one slot after another: what then is not found had never been computed.
"""

import argparse
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from branchwork.bench.programs import PROGRAMS, Program, Writer
from branchwork.bench.report import Report
from branchwork.runtime.engine.engine import Engine
from branchwork.runtime.engine.radix import RadixTree
from branchwork.runtime.inbox import Append, BranchKey, Generate, OpenBranch
from branchwork.runtime.io.encoder import ModelEncoder
from branchwork.runtime.mock import MockInbox, MockOutbox
from branchwork.runtime.models.loader import load_model
from branchwork.runtime.models.model_runner import ModelRunner
from branchwork.runtime.runner import Runner
from branchwork.runtime.wire.config import RuntimeConfig
from branchwork.runtime.wire.messages import Done, Tokens

AT_ONCE = 16
"""Programs that run at the same time; as one ends, the next one begins."""

TREE_WORK = (
    "find", "hold", "unlock", "extend", "touch", "evict", "keep", "unkeep", "slots_of",
)  # fmt: skip


def add_options(parser: argparse.ArgumentParser) -> None:
    """What can be changed."""
    parser.add_argument("--model", default="sprout", help="model folder (default: sprout)")
    parser.add_argument(
        "--slots", type=int, default=8192, help="size of the pool in tokens (default: 8192)"
    )


def run(options: argparse.Namespace) -> Report:
    """Tokens found beside those an oracle finds; and the tree's share of the time."""
    config = RuntimeConfig(model=options.model)
    model = load_model(config)
    max_len = min(model.config.max_position, options.slots)
    tokenizer = ModelEncoder(model.folder, model.config.vocab_size, max_len).tokenizer
    runner = ModelRunner(model, options.slots, config.max_rows, max_len, compiled=True)
    report = Report(
        f"ten programs on {options.model}, {options.slots:,} slots, {AT_ONCE} at once",
        ("program", "slots", "prompt tokens", "found", "optimum", "share of it", "tree work"),
        panels=(("found", "optimum"),),
    )
    for name, write in PROGRAMS.items():
        programs = list(write(Writer(random.Random(name))))
        engine = _engine(config, runner, tokenizer, model.config.eos_token_ids)
        with _stopwatch(RadixTree, TREE_WORK) as tree_s:
            seconds, slots = _serve(engine, programs)
        prompts = sum(len(prompt) - 1 for prompt, _, _ in slots)
        found = sum(cached for _, _, cached in slots)
        best = _oracle(slots)
        report.add(
            name, len(slots), prompts, found / prompts, best / prompts, found / best,
            f"{tree_s() / seconds:.2%}",
        )  # fmt: skip
    report.notes.append("To reach: 96 % of the optimum, tree work at most 0.3 % of the time.")
    return report


def _engine(
    config: RuntimeConfig, runner: Runner, tokenizer: Any, eos_ids: tuple[int, ...]
) -> Engine:
    vocabulary = tokenizer.vocabulary(eos_ids)
    return Engine(config, runner, vocabulary, tokenizer, MockInbox(), MockOutbox())


Slot = tuple[tuple[int, ...], tuple[int, ...], int]
"""A slot that has been filled: its prompt, its answer, how many tokens were found."""


def _serve(engine: Engine, programs: list[Program]) -> tuple[float, list[Slot]]:
    """Run the programs; returns the seconds and the slots, in the order in which they were done."""
    outbox: Any = engine._outbox
    owner = {operation.key.branch: number for number, program in enumerate(programs)
             for operation in program if isinstance(operation, OpenBranch)}  # fmt: skip
    left = [sum(isinstance(one, Generate) for one in program) for program in programs]
    waiting = list(enumerate(programs))[::-1]
    answers: dict[tuple[int, str], tuple[int, ...]] = {}
    done: list[tuple[int, Done]] = []
    began = time.thread_time()
    num_running = 0
    while waiting or num_running:
        while waiting and num_running < AT_ONCE:
            _, program = waiting.pop()
            num_running += 1
            for operation in program:
                engine.branches.handle(operation)
        engine.step()
        events, outbox.events = outbox.events, []
        for _, event in events:
            if isinstance(event, Tokens):
                answers[event.branch, event.slot] = tuple(
                    token for run in event.runs for token in run.token_ids
                )
            elif isinstance(event, Done):
                done.append((event.branch, event))
                left[owner[event.branch]] -= 1
                num_running -= left[owner[event.branch]] == 0
    seconds = time.thread_time() - began
    prompts = _prompts(programs, answers)
    return seconds, [
        (prompts[branch, event.slot], answers[branch, event.slot], event.usage.cached)
        for branch, event in done
    ]


def _prompts(
    programs: list[Program], answers: dict[tuple[int, str], tuple[int, ...]]
) -> dict[tuple[int, str], tuple[int, ...]]:
    """What stood on the branch before each slot."""
    texts: dict[BranchKey, tuple[int, ...]] = {}
    prompts = {}
    for program in programs:
        for operation in program:
            match operation:
                case OpenBranch(key, parent):
                    texts[key] = texts[parent] if parent is not None else ()
                case Append(key, token_ids):
                    texts[key] += token_ids
                case Generate(key, gen):
                    prompts[key.branch, gen.slot] = texts[key]
                    texts[key] += answers[key.branch, gen.slot]
    return prompts


def _oracle(slots: list[Slot]) -> int:
    """Tokens that are found if nothing is ever forgotten; the last one of a prompt is always computed."""
    root: dict[int, Any] = {}
    found = 0
    for prompt, answer, _ in slots:
        node = root
        for place, token in enumerate(prompt + answer[:-1]):
            if token not in node:
                found += min(place, len(prompt) - 1) if node is not None else 0
                break
            node = node[token]
        else:
            found += len(prompt) - 1
        node = root
        for token in prompt + answer[:-1]:
            node = node.setdefault(token, {})
    return found


@contextmanager
def _stopwatch(owner: type, names: tuple[str, ...]) -> Iterator[Callable[[], float]]:
    """Time the methods of a class, the outermost calls only."""
    total, depth = 0.0, 0

    def timed(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal total, depth
            depth += 1
            began = time.thread_time()
            try:
                return method(*args, **kwargs)
            finally:
                depth -= 1
                if depth == 0:
                    total += time.thread_time() - began

        return call

    methods = {name: getattr(owner, name) for name in names}
    for name, method in methods.items():
        setattr(owner, name, timed(method))
    try:
        yield lambda: total
    finally:
        for name, method in methods.items():
            setattr(owner, name, method)
