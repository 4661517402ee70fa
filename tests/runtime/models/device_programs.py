"""Programs that a device has to answer as the CPU does, token for token: each reaches another part of its runner.

Each makes operations for an engine; a program may act between two steps. They run over the CPU's compiled network and
over the device's runner: with the reference for kernels (`python -m tests.runtime.models.device_programs NAME …`), in
triton's interpreter (`interpreted.py`) or on a GPU.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any
from unittest.mock import patch

import torch
from tests.make_engine import NaiveGrammar, choose, closed, embed, generate, opened, text
from tests.runtime.models.rounded import rounded_model

from branchwork.bench.random_model import model_config, random_model
from branchwork.kernels import api as kernels
from branchwork.runtime.engine import machines
from branchwork.runtime.grammar import token_machine
from branchwork.runtime.inbox import Operation
from branchwork.runtime.mock import MockRuntime, mock_vocabulary
from branchwork.runtime.models.config import ExpertsConfig, ModelConfig
from branchwork.runtime.models.device_runner import DeviceRunner
from branchwork.runtime.models.loader import LoadedModel, on_device
from branchwork.runtime.models.model_runner import ModelRunner
from branchwork.runtime.plan import CHOSEN, Plan
from branchwork.runtime.runner import Pending, Runner
from branchwork.runtime.wire.config import RuntimeConfig
from branchwork.runtime.wire.messages import Closed, Done, Event, Failed

VOCABULARY = mock_vocabulary()
MAX_ROWS, MAX_LEN, NUM_SLOTS = 8, 200, 1200

# Words of the mock vocabulary: 70 tokens and more.
LONG = "once upon a time in the town of many words, " * 3

NUMBER = NaiveGrammar("[0-9]{2,4}(km|mi)?")
CHOICE = NaiveGrammar("(true|false|null|Paris|London)!")
RECORD = NaiveGrammar('\\{"name": "[a-z]{1,6}", "age": [0-9]{1,2}\\}')
MANY_PLACES = NaiveGrammar("[a-y]{1,150}")


@dataclass(frozen=True)
class Program:
    """Operations that are put before a step of that number; what the runner must have met, in words of `Watched`."""

    name: str
    operations: dict[int, list[Operation]]
    config: dict[str, Any] = field(default_factory=dict)
    meets: tuple[str, ...] = ()
    model: str = "plain"
    kv_dtype: torch.dtype | None = None

    def __str__(self) -> str:
        return self.name


def free(branch: int, prompt: str, adapter: int = 0, **options: Any) -> list[Operation]:
    slot = {"max_tokens": 6, "ignore_eos": True} | options
    return [opened(branch, adapter=adapter), text(branch, prompt), generate(branch, **slot)]


def warm(seed: int, **options: Any) -> dict[str, Any]:
    return {"temperature": 1.2, "seed": seed, **options}


def cascade(adapter: int = 0, **options: Any) -> dict[int, list[Operation]]:
    """Forks of one long branch, with own words behind it, and its adapter."""
    forks = [
        operation
        for child in range(2, 6)
        for operation in (
            opened(child, 1), text(child, f"and {child} "),
            generate(child, max_tokens=5, ignore_eos=True, **options),
        )
    ]  # fmt: skip
    return {0: [*free(1, LONG, adapter, max_tokens=2)], 3: forks}


PROGRAMS = [
    Program("one, greedy", {0: free(1, "Hello")}, meets=("decode 1", "ahead")),
    Program("five at once, drawn in every way", {0: [
        *free(1, "the ", **warm(1)), *free(2, "in Paris", **warm(2, top_k=5)), *free(3, "a", **warm(3, top_p=0.7)),
        *free(4, "London is", **warm(4, min_p=0.1, top_k=20)), *free(5, "age", temperature=0.0)]},
        meets=("decode 8", "ahead")),
    Program("one joins, one leaves", {0: free(1, "Hello", max_tokens=9), 2: free(2, "the", max_tokens=3),
        5: free(3, "a town", **warm(7, max_tokens=5))}, meets=("decode 1", "decode 2", "mixed ahead")),
    Program("a prompt in chunks beside a stream", {0: free(1, "Hello", max_tokens=9), 2: free(2, LONG)},
        {"max_chunk": 32, "profile": "throughput"}, meets=("mixed ahead",)),
    Program("a prefix from the cache", {0: free(1, LONG), 9: free(2, LONG + "and"), 18: free(3, LONG)}),
    Program("shared prefixes", cascade(), meets=("shared", "decode 4")),
    Program("shared prefixes, windows", cascade(), meets=("shared",), model="windows"),
    Program("constraints on the device", {0: [
        *free(1, "n: ", grammar=NUMBER, ignore_eos=False, max_tokens=8), *free(2, "is it? ", grammar=CHOICE,
        ignore_eos=False, max_tokens=12, **warm(5)), *free(3, "the ", max_tokens=8)],
        9: free(4, "n: ", grammar=NUMBER, ignore_eos=False, max_tokens=8, **warm(6))},
        meets=("machine", "machine ahead")),
    Program("two constraints sampled token by token", {0: [
        *free(1, "n: ", grammar=NUMBER, ignore_eos=False, max_tokens=8),
        *free(2, "x", grammar=RECORD, ignore_eos=False, max_tokens=40, options={"jump_forward": False}, **warm(8))]},
        meets=("machine ahead",)),
    Program("a constraint that is too big, beside one that is not", {0: [
        *free(1, "x", grammar=MANY_PLACES, ignore_eos=False, max_tokens=8),
        *free(2, "x", grammar=NUMBER, ignore_eos=False, max_tokens=10, **warm(4))]}, meets=("mask", "machine")),
    Program("a row that is free, held by a machine, and free again", {
        0: [*free(1, "n: ", grammar=NUMBER, ignore_eos=False, max_tokens=8), *free(2, "a", ignore_eos=False,
            max_tokens=14)],
        20: free(3, "n: ", grammar=NUMBER, ignore_eos=False, max_tokens=8, **warm(2)),
        34: free(4, "b", ignore_eos=False, max_tokens=4, **warm(3))}, meets=("machine ahead",)),
    Program("jump-forward under a machine", {0: free(1, "x", grammar=RECORD, ignore_eos=False, max_tokens=40,
        **warm(9))}, meets=("machine",)),
    Program("a stop that is found late", {0: [*free(1, "Hello", max_tokens=12, stop=("a", "e", "in")),
        *free(2, "the", max_tokens=12, **warm(3, stop=("o", "u")))], 14: free(3, "Hello")}, meets=("ahead",)),
    Program("bans, biases, penalties, logprobs", {0: [
        *free(1, "a", min_tokens=3, ignore_eos=False), *free(2, "b", logit_bias=((97, 4.0), (98, -9.0)), **warm(1)),
        *free(3, "c", presence_penalty=1.5, frequency_penalty=0.5, repetition_penalty=1.3),
        *free(4, "d", options={"logprobs": 2})]}, meets=("eager",)),
    Program("a select and an embedding", {0: [opened(1), text(1, "it is "), choose(1, "Paris", "London", "a"),
        opened(2), text(2, "the town"), embed(2, pooling="mean"), *free(3, "in ")]}, meets=("eager",)),
    Program("guesses", {0: [*free(1, "ab" * 8 + "a", max_tokens=10), *free(2, "the the the the the ", **warm(2))]},
        {"speculate": 3}, meets=("guess",)),
    Program("aborts", {0: [*free(1, "Hello", max_tokens=30), *free(2, "the", max_tokens=12)],
        3: [closed(1, abort=True)], 4: free(3, "Hello")}, meets=("ahead",)),
    Program("a pool that is too small", {0: [op for b in range(1, 6) for op in free(b, LONG[: 40 + b], max_tokens=20)]},
        {"growth_reserve": 0, "kv": 170}, meets=("decode 8",)),
    Program("weights in int8", {0: [*free(1, "Hello", max_tokens=9), *free(2, "the ", **warm(1))], 2: free(3, LONG),
        4: free(4, "n: ", grammar=NUMBER, ignore_eos=False, max_tokens=8)}, meets=("decode 4", "eager"), model="int8"),
    Program("weights in int4", {0: [*free(1, "Hello", max_tokens=9), *free(2, "the ", **warm(1))], 2: free(3, LONG),
        4: free(4, "d", options={"logprobs": 2})}, meets=("decode 4", "eager"), model="int4"),
    Program("a mixture of experts", {0: [*free(1, "Hello", max_tokens=9), *free(2, "the ", **warm(1))],
        2: free(3, LONG), 4: free(4, "d", options={"logprobs": 2})}, meets=("decode 4", "eager"), model="experts"),
    Program("K/V in int8", {0: [*free(1, LONG, max_tokens=9), *free(2, "the ", **warm(1))], 2: free(3, LONG + "and "),
        4: free(4, LONG[:50], options={"logprobs": 2}), 14: free(5, LONG + "and a")},
        {"max_chunk": 32}, meets=("decode 4", "eager"), kv_dtype=torch.int8),
    Program("K/V in int8, shared prefixes", cascade(), meets=("shared", "decode 4"), kv_dtype=torch.int8),
    Program("K/V in float8, shared prefixes, windows", cascade(**warm(3)), meets=("shared",), model="windows",
        kv_dtype=torch.float8_e4m3fn),
    Program("K/V in float8, guesses", {0: [*free(1, "ab" * 8 + "a", max_tokens=10), *free(2, LONG, **warm(2))]},
        {"speculate": 3}, meets=("guess",), kv_dtype=torch.float8_e4m3fn),
    Program("K/V in float8, a pool that is too small", {0: [op for b in range(1, 6) for op in free(b, LONG[: 40 + b],
        max_tokens=20)]}, {"growth_reserve": 0, "kv": 170}, meets=("decode 8",), kv_dtype=torch.float8_e4m3fn),
    Program("two adapters and none", {0: free(1, "Hello", 1, **warm(1, max_tokens=3)),
        6: free(2, "Hello", 2, **warm(1, max_tokens=3)), 12: [*free(3, "Hello", 1, max_tokens=5),
        *free(4, "Hello", 2, max_tokens=5), *free(5, "Hello", max_tokens=4)], 14: free(6, LONG[:60], 2, max_tokens=2)},
        meets=("decode 1", "decode 4", "eager", "several adapters"), model="adapters"),
    Program("adapters over shared prefixes", {0: [*free(1, LONG, 1, max_tokens=2), *free(9, LONG, max_tokens=24)],
        3: [*cascade()[3], *free(8, LONG[:90], 2)]}, meets=("shared", "several adapters"), model="adapters"),
    Program("adapters over weights in int4", {0: [*free(1, "Hello", 2, max_tokens=9), *free(2, "the ", **warm(1))],
        2: free(3, LONG, 1), 4: free(4, "d", 2, options={"logprobs": 2})},
        meets=("decode 4", "eager", "several adapters"), model="adapters, int4"),
]  # fmt: skip


class Watched:
    """A runner, and which of its ways were gone."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.met: set[str] = set()
        self.num_slots, self.max_len = runner.num_slots, runner.max_len
        self.steps_ahead, self.num_machines = runner.steps_ahead, runner.num_machines

    def launch(self, plan: Plan) -> Pending:
        segments = plan.segments
        ahead = any(segment.token_ids == (CHOSEN,) for segment in segments)
        if all(len(segment.token_ids) == 1 for segment in segments):
            self.met.add(f"decode {1 << (len(segments) - 1).bit_length()}")
            self.met |= {"ahead"} if ahead else set()
        else:
            self.met |= {"eager", "mixed ahead"} if ahead else {"eager"}
        for segment in segments:
            sample = segment.sample
            self.met |= {"guess"} if segment.guessed else set()
            if sample is not None and (
                sample.top_logprobs is not None or sample.sampler.logit_bias
            ):
                self.met.add("eager")
            if sample is not None and sample.mask is not None:
                self.met.add("mask")
            if sample is not None and sample.place is not None:
                self.met.add("machine" if sample.place.state is not None else "machine ahead")
        self.met |= {"shared"} if plan.shared_prefixes else set()
        several = len({segment.adapter for segment in segments}) > 1
        self.met |= {"several adapters"} if several else set()
        return self._runner.launch(plan)


def make_models() -> dict[str, LoadedModel]:
    """Tiny ones in float32, made on the CPU so that they are the same anywhere."""
    sizes = (2, 32, 48, 4, 2, 16, VOCABULARY.size, 512)
    plain = random_model(model_config(*sizes, qk_norm=True), torch.float32, "cpu", std=0.15)
    adapted = replace(plain, decoder=plain.decoder.with_adapters(make_adapters(plain.config)))
    return {
        "plain": plain,
        "windows": random_model(model_config(*sizes, window=24), torch.float32, "cpu", std=0.15),
        "experts": random_model(
            model_config(*sizes, experts=ExpertsConfig(5, 2, 24, True, (False, True))),
            torch.float32,
            "cpu",
            std=0.15,
        ),
        "int8": replace(plain, quantize="int8"),
        "int4": replace(plain, quantize="int4"),
        "adapters": adapted,
        "adapters, int4": replace(adapted, quantize="int4"),
    }


def make_adapters(config: ModelConfig) -> kernels.AdapterWeights:
    """Two of every matrix, of ranks 8 and 16."""
    random = torch.Generator().manual_seed(5)

    def low(inputs: int, *widths: int) -> kernels.LowRank:
        shrink = torch.randn(2, len(widths), 16, inputs, generator=random) * inputs**-0.5
        shrink[0, :, 8:] = 0
        expand = torch.randn(2, sum(widths), 16, generator=random) * 0.1
        return kernels.LowRank(shrink.flatten(1, 2), expand, widths)

    hidden, width, q_width = (
        config.hidden_size,
        config.intermediate_size,
        config.num_heads * config.head_dim,
    )
    kv_width = config.num_kv_heads * config.head_dim
    layers = [
        kernels.LayerAdapters(
            low(hidden, q_width, kv_width, kv_width),
            low(q_width, hidden),
            low(hidden, width, width),
            low(width, hidden),
        )
        for _ in range(config.num_layers)
    ]
    return kernels.AdapterWeights(2, 16, tuple(layers))


Models = dict[str, LoadedModel]


def on_the_cpu(program: Program, models: Models, compiled: bool = True) -> Callable[[int], Runner]:
    """Given the slots of the pool: the compiled network, or operation by operation. Rounded weights are written out."""
    model = rounded_model(models[program.model])
    return lambda slots: ModelRunner(
        model,
        slots,
        MAX_ROWS,
        MAX_LEN,
        256,
        threads=1,
        compiled=compiled,
        kv_dtype=program.kv_dtype,
    )


def on_a_device(
    program: Program, models: Models, name: str, graphs: bool = True
) -> Callable[[int], Runner]:
    """Given the slots of the pool: a device's runner."""
    there = on_device(models[program.model], name)
    return lambda slots: DeviceRunner(
        there, slots, MAX_ROWS, MAX_LEN, 256, kv_dtype=program.kv_dtype, graphs=graphs
    )


def answers(program: Program, make_runner: Callable[[int], Runner]) -> tuple[list[Any], set[str]]:
    """The final messages of every slot, without times and without what was cached; and the ways that were gone."""
    machines.PLACES_AT_ONCE, token_machine.MAX_EXPLORE_S = 1000, 60.0
    options = dict(program.config)
    runner = Watched(make_runner(options.pop("kv", NUM_SLOTS)))
    config = RuntimeConfig(max_rows=MAX_ROWS, max_tokens_per_step=256, **options)
    runtime = MockRuntime(config, runner=runner)
    waiting = dict(program.operations)
    for step in range(400):
        runtime.put(*waiting.pop(step, []))
        runtime.step()
        if not waiting and runtime.engine.idle:
            break
    else:
        raise AssertionError("a stall")
    cache = runtime.engine.cache
    cache.check([])
    assert cache.num_locked == 0
    return sorted(map(str, map(_plain, runtime.outbox.events))), runner.met


def _plain(pair: tuple[bytes, Event]) -> Any:
    event = pair[1]
    if isinstance(event, Done):
        usage = (event.usage.prompt, event.usage.completion, event.usage.jumped)
        scores = [(score.text, round(score.score, 3)) for score in event.scores]
        embedding = [round(value, 3) + 0.0 for value in event.embedding]
        return (event.branch, event.slot, event.reason, event.text, usage, scores, embedding)
    if isinstance(event, Failed):
        return (event.branch, event.slot, event.code)
    if isinstance(event, Closed):
        return (event.branch, "closed")
    logprobs = [
        (one.token_id, one.logprob and round(one.logprob, 3), [(t, round(v, 3)) for t, _, v in one.top])
        for one in event.logprobs
    ]  # fmt: skip
    ids = [token for run in event.runs for token in run.token_ids]
    return (event.branch, "tokens", ids, logprobs) if logprobs else (event.branch, "tokens", ids)


def main(names: list[str], compiled: bool) -> None:
    """Run programs over a device's runner in this process; a line of JSON for each: what is wrong, seconds of CPU."""
    models = make_models()
    for program in PROGRAMS:
        if str(program) not in names:
            continue
        began = time.process_time()
        print(json.dumps({"starts": str(program)}), flush=True)
        # In the interpreter any tensor is Triton's; what is expected is the reference's.
        with patch.object(kernels, "runs_triton", lambda tensor: tensor.device.type == "cuda"):
            expected, _ = answers(program, on_the_cpu(program, models, compiled))
        found, met = answers(program, on_a_device(program, models, "cpu"))
        line = {
            "program": str(program),
            "wrong": None if found == expected else str((found, expected)),
            "missed": sorted(set(program.meets) - met),
            "seconds": round(time.process_time() - began, 1),
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    # A copy of the package (see `tests.kernels.planted`) has no machine code.
    main(sys.argv[1:], compiled=False)
