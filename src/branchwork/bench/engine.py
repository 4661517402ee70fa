"""The engine on a GPU: an 8B-shaped model of random weights, made on the device, beside the floor and transformers.

The floor of a decode step is the time of reading all weights at the measured copy rate. The engine runs in this process
without sockets; what is measured is what its loop does, planning and booking included.
"""

import argparse
import gc
import itertools
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from branchwork.bench.gpu import Ceilings, measure_ceilings, require_gpu
from branchwork.bench.random_model import LLAMA_8B, random_model
from branchwork.bench.report import Report, Target
from branchwork.runtime.engine.engine import Engine
from branchwork.runtime.grammar.compile import compile_constraint
from branchwork.runtime.grammar.interface import Grammar, Vocabulary
from branchwork.runtime.grammar.masks import lexicon_of
from branchwork.runtime.grammar.matcher import MachineGrammar
from branchwork.runtime.inbox import Append, BranchKey, Generate, OpenBranch
from branchwork.runtime.mock import MockInbox, MockOutbox, MockTokenizer
from branchwork.runtime.models.config import ModelConfig
from branchwork.runtime.models.device_runner import DeviceRunner
from branchwork.runtime.models.loader import LoadedModel, on_device
from branchwork.runtime.models.memory import KV_DTYPES
from branchwork.runtime.wire.config import RuntimeConfig
from branchwork.runtime.wire.messages import Gen, Regex, Sampling


@dataclass(frozen=True, slots=True)
class Setup:
    """What is measured; the test of this bench has smaller sizes. Lengths in tokens."""

    config: ModelConfig = LLAMA_8B
    dtype: torch.dtype = torch.bfloat16
    device: str = "cuda"
    batches: tuple[int, ...] = (1, 32, 128)
    prompt: int = 128
    steps: int = 100
    prompts: tuple[int, ...] = (2048, 8192)
    sharing: tuple[int, int, int] = (64, 4096, 256)  # requests, shared, own
    slots: int = 131_072
    compiled_peer: bool = True


def add_options(parser: argparse.ArgumentParser) -> None:
    """What can be changed."""
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure (default: all)"
    )


def run(options: argparse.Namespace) -> Report:
    """All of it. Raises ConfigError on a machine without a GPU."""
    name = require_gpu()
    live = options.json or Path(os.devnull)
    return measure(name, measure_ceilings(), Setup(), options.parts, live)


PARTS = (
    "decode", "constrained", "first-tokens", "cascade", "rounded-weights", "quantized-kv", "transformers"
)  # fmt: skip
"""What has a target comes first; transformers last, whose compilation takes minutes."""


def measure(
    name: str,
    ceilings: Ceilings,
    setup: Setup,
    parts: Sequence[str] = PARTS,
    live: Path | None = None,
) -> Report:
    """The report for a device of these ceilings."""
    report = Report(
        f"the engine on {name}, {setup.config.num_layers} layers of {setup.config.hidden_size}",
        ("what", "found", "unit", "beside", "over it"),
        live=live,
    )
    of_ours = [part for part in PARTS if part in parts and part != "transformers"]
    if of_ours:
        _measure_ours(report, _Bench(setup), ceilings, of_ours)
        _free(setup)
    if "transformers" in parts:
        for row in _transformers(setup):
            report.add(*row)
    return report


def _measure_ours(
    report: Report, bench: "_Bench", ceilings: Ceilings, parts: Sequence[str]
) -> None:
    read = bench.model.decoder.matrix_bytes
    # A copy reads and writes; a step only reads.
    floor_us = read / ceilings.bytes_per_us
    report.notes.append(
        f"Floor: {floor_us / 1e3:.3g} ms for {read / 1e9:.3g} GB of layers and the head at the measured copy rate."
    )
    measuring = {
        "decode": partial(_decode, bench, floor_us),
        "constrained": partial(_constrained, bench),
        "first-tokens": partial(_first_tokens, bench),
        "cascade": partial(_cascade, bench),
        "rounded-weights": partial(_rounded_weights, bench, ceilings),
        "quantized-kv": partial(_quantized_kv, bench),
    }
    for part in parts:
        for what, found, unit, beside, share, least in measuring[part]():
            report.add(what, found, unit, beside, share)
            if least is not None:
                report.check(Target(f"{what}, over {beside}", float(share), least=least))


Row = tuple[str, float, str, str, float | str, float | None]
"""Name, figure, unit, what it is beside, its share of that, and the share that is to be reached."""


@dataclass(slots=True)
class _Bench:
    """A model, a vocabulary, and engines over them."""

    setup: Setup
    model: LoadedModel = field(init=False)
    vocabulary: Vocabulary = field(init=False)
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        setup = self.setup
        with torch.inference_mode():
            made = random_model(setup.config, setup.dtype, setup.device)
            self.model = on_device(made, setup.device)
        self.vocabulary = made_up_vocabulary(setup.config.vocab_size)

    def engine(self, model: LoadedModel | None = None, **options: Any) -> Engine:
        """A fresh engine, of the bench's model or another; `options` are those of the runner."""
        _free(self.setup)
        setup, config = self.setup, RuntimeConfig(max_rows=max(setup_rows(self.setup)))
        runner = DeviceRunner(
            model or self.model, setup.slots, config.max_rows, setup.config.max_position, config.max_tokens_per_step,
            **options,
        )  # fmt: skip
        return Engine(
            config,
            runner,
            self.vocabulary,
            MockTokenizer(self.vocabulary),
            MockInbox(),
            MockOutbox(),
        )

    def ask(
        self, engine: Engine, prompt: list[int], max_tokens: int, grammar: Grammar | None = None
    ) -> None:
        """One more branch with a greedy slot of exactly so many tokens."""
        key = BranchKey(b"bench", next(self.numbers))
        sampling = Sampling(max_tokens=max_tokens, temperature=0.0, ignore_eos=grammar is None)
        gen = Gen(key.branch, "x", sampling, jump_forward=False, length_safe=False)
        engine.branches.handle(OpenBranch(key))
        engine.branches.handle(Append(key, tuple(prompt)))
        engine.branches.handle(Generate(key, gen, None if grammar is None else _ready(grammar)))

    def prompt(self, seed: int, length: int) -> list[int]:
        """Random tokens."""
        generator = torch.Generator().manual_seed(seed)
        high = self.setup.config.vocab_size - 1
        return torch.randint(0, high, (length,), generator=generator).tolist()


def setup_rows(setup: Setup) -> tuple[int, ...]:
    """How many requests run at once in any part."""
    return (*setup.batches, setup.sharing[0])


def made_up_vocabulary(size: int) -> Vocabulary:
    """The bytes, then words of three and four letters; the last id is the end."""
    words = (
        bytes(w) for n in (3, 4) for w in itertools.product(b"abcdefghijklmnopqrstuvwxyz", repeat=n)
    )
    count = max(0, size - 257)
    token_bytes = [bytes((b,)) for b in range(256)][: size - 1]
    return Vocabulary((*token_bytes, *itertools.islice(words, count), b""), (size - 1,), size)


def _ready(grammar: Grammar) -> Any:
    future: Future[Grammar] = Future()
    future.set_result(grammar)
    return future


def _free(setup: Setup) -> None:
    """Give back what the last engine held."""
    gc.collect()
    if setup.device == "cuda":
        torch.cuda.empty_cache()


def _finish(engine: Engine) -> None:
    while not engine.idle:
        engine.step()


def _step_s(
    bench: _Bench, engine: Engine, prompts: list[list[int]], grammar: Grammar | None = None
) -> float:
    """Seconds of a decode step of these prompts, once all of them decode; the engine is warm then and empty again."""
    steps = bench.setup.steps
    for prompt in prompts:
        bench.ask(engine, prompt, steps + 40, grammar)
    running = engine.scheduler.running
    while engine.scheduler.waiting or any(req.prefilling for req in running):
        engine.step()
    for _ in range(20):  # the first decode steps of a batch compile, and machines are built
        engine.step()
    began = time.perf_counter()
    for _ in range(steps):
        engine.step()
    seconds = (time.perf_counter() - began) / steps
    _finish(engine)
    return seconds


def _decode(bench: _Bench, floor_us: float) -> Iterator[Row]:
    """Decoding at each batch, with and without graphs."""
    setup, times = bench.setup, {}
    for graphs in (True, False):
        engine = bench.engine(graphs=graphs)
        for batch in setup.batches if graphs else setup.batches[:1]:
            prompts = [bench.prompt(seed, setup.prompt) for seed in range(batch)]
            times[graphs, batch] = seconds = _step_s(bench, engine, prompts)
            share = floor_us / 1e6 / seconds
            target = 0.8 if batch == 1 and graphs else None
            what = f"decode, batch {batch}" + ("" if graphs else ", no graphs")
            yield what, batch / seconds, "tokens/s", "weight floor", share, target
        del engine


def _first_tokens(bench: _Bench) -> Iterator[Row]:
    """The time to the first token of one long prompt, alone."""
    engine = bench.engine()
    for number, length in enumerate(bench.setup.prompts):
        times = []
        for attempt in range(3):
            bench.ask(engine, bench.prompt(1000 + 10 * number + attempt, length), 1)
            began = time.perf_counter()
            _finish(engine)
            times.append(time.perf_counter() - began)
        yield f"first token of {length:,}", 1e3 * min(times), "ms", "", "", None


def _constrained(bench: _Bench) -> Iterator[Row]:
    """The same batch free, held by the device, and held by masks from the host."""
    batch = bench.setup.batches[min(1, len(bench.setup.batches) - 1)]
    program = compile_constraint(Regex("[ -~]*"))
    grammar = MachineGrammar(program, lexicon_of(bench.vocabulary))
    prompts = [bench.prompt(seed, bench.setup.prompt) for seed in range(batch)]
    engine = bench.engine()
    free = _step_s(bench, engine, prompts)
    on_device = _step_s(bench, engine, prompts, grammar)
    yield (
        f"constrained, batch {batch}",
        batch / on_device,
        "tokens/s",
        "free",
        free / on_device,
        0.98,
    )
    del engine
    engine = bench.engine(num_machines=0)
    by_host = _step_s(bench, engine, prompts, grammar)
    yield (
        f"masks from the host, batch {batch}",
        batch / by_host,
        "tokens/s",
        "free",
        free / by_host,
        None,
    )


def _rounded_weights(bench: _Bench, ceilings: Ceilings) -> Iterator[Row]:
    """Decoding with weights of 8 and 4 bits, beside the time of reading those."""
    setup = bench.setup
    for quantize in ("int8", "int4"):
        with torch.inference_mode():
            model = on_device(replace(bench.model, quantize=quantize), setup.device)
        floor_s = model.decoder.matrix_bytes / ceilings.bytes_per_us / 1e6
        engine = bench.engine(model)
        for batch in setup.batches:
            prompts = [bench.prompt(seed, setup.prompt) for seed in range(batch)]
            seconds = _step_s(bench, engine, prompts)
            what = f"weights in {quantize}, batch {batch}"
            yield what, batch / seconds, "tokens/s", "weight floor", floor_s / seconds, None
        del engine, model


def _quantized_kv(bench: _Bench) -> Iterator[Row]:
    """Decoding long requests with K/V of 8 bits, beside the same over the model's type."""
    setup = bench.setup
    batch, length = setup.batches[1], setup.prompts[0]
    prompts = [bench.prompt(200 + i, length) for i in range(batch)]
    plain = _step_s(bench, bench.engine(), prompts)
    for name, kind in KV_DTYPES.items():
        if kind is not None:
            seconds = _step_s(bench, bench.engine(kv_dtype=kind), prompts)
            what = f"K/V in {name}, batch {batch} of {length:,}"
            yield what, batch / seconds, "tokens/s", "its own type", plain / seconds, None


def _cascade(bench: _Bench) -> Iterator[Row]:
    """Requests that share a long prefix, with it read once and read by each."""
    requests, shared, own = bench.setup.sharing
    common = bench.prompt(7, shared)
    prompts = [common + bench.prompt(100 + i, own) for i in range(requests)]
    times = {}
    for cascade in (True, False):
        engine = bench.engine(cascade=cascade)
        bench.ask(engine, common, 1)
        _finish(engine)
        times[cascade] = _step_s(bench, engine, prompts)
        del engine
    yield (
        f"{requests} × ({shared:,} + {own}), shared prefix read once", requests / times[True], "tokens/s",
        "read by each", times[False] / times[True], None,
    )  # fmt: skip


def _transformers(setup: Setup) -> Iterator[tuple[str, float, str, str, str]]:
    """`generate` with a static cache, compiled: its decode steps, by the difference of a long and a short answer."""
    # Seconds to import, and only this part needs it.
    from transformers import LlamaConfig, LlamaForCausalLM  # noqa: PLC0415

    config = setup.config
    shape = LlamaConfig(
        vocab_size=config.vocab_size, hidden_size=config.hidden_size, intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_layers, num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_kv_heads, head_dim=config.head_dim,
        max_position_embeddings=config.max_position, eos_token_id=None, bos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    with torch.device(setup.device):
        model: Any = LlamaForCausalLM(shape)
    model.to(setup.dtype).eval()
    if setup.compiled_peer:
        model.forward = torch.compile(model.forward, mode="reduce-overhead", fullgraph=True)
    for batch in setup.batches:
        ids = torch.randint(0, config.vocab_size, (batch, setup.prompt), device=setup.device)

        def seconds(count: int, ids: Any = ids) -> float:
            began = time.perf_counter()
            model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=False, min_new_tokens=count,
                max_new_tokens=count, cache_implementation="static",
            )  # fmt: skip
            if setup.device == "cuda":
                torch.cuda.synchronize()
            return time.perf_counter() - began

        few, many = max(2, setup.steps // 10), setup.steps
        for count in (few, many):  # compiles
            seconds(count)
        step_s = (seconds(many) - seconds(few)) / (many - few)
        yield f"transformers, static cache, batch {batch}", batch / step_s, "tokens/s", "", ""
