"""Every kernel on a GPU beside what torch has for it, and beside what the device could do at best.

The shapes are of a Llama-3-8B layer: 32 query heads, 8 key heads, D 128. The floor of an operation is the time of the
bytes it must move at the measured copy rate, or of its products at the measured rate of a large one.
"""

import argparse
import importlib.util
import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from branchwork.bench.gpu import Ceilings, Work, measure_ceilings, require_gpu, time_us
from branchwork.bench.report import Report, Target
from branchwork.kernels import api
from branchwork.kernels.quantized import quantize_heads
from branchwork.kernels.sampling import SamplingRows

HEADS, KV_HEADS, D, HIDDEN, WIDTH, VOCAB = 32, 8, 128, 4096, 14336, 128_256
BF16, F32 = torch.bfloat16, torch.float32
DEVICE = "cuda"


@dataclass(frozen=True, slots=True)
class Item:
    """One line: our work, a peer's, and what must be moved or multiplied at least.

    `others`: the same over other data, done behind it, as in a step of many layers; the figures are those of one. A
    short piece of work alone would be measured together with the launch of its graph.
    `share`: of the ceiling, to be reached; `ratio`: over the peer, to be reached.
    """

    name: str
    work: Work
    num_bytes: float = 0.0
    flop: float = 0.0
    peer: str = ""
    peer_work: Work | None = None
    others: tuple[Work, ...] = ()
    share: float = 0.0
    ratio: float = 0.0

    def all(self) -> None:
        """Our work, and the others'."""
        self.work()
        for work in self.others:
            work()


def add_options(parser: argparse.ArgumentParser) -> None:
    """What can be changed."""
    parser.add_argument("--only", default="", help="measure the operations whose name begins so")


def run(options: argparse.Namespace) -> Report:
    """Ceilings first, then each operation and its peer in the same sitting."""
    device = require_gpu()
    return measure(device, measure_ceilings(), options.only, live=options.json or Path(os.devnull))


def measure(
    device: str,
    ceilings: Ceilings,
    only: str = "",
    clock: Callable[[Work], float] = time_us,
    live: Path | None = None,
) -> Report:
    """The table. `clock` gives the microseconds of a piece of work."""
    report = Report(
        f"Kernels on {device}",
        ("operation", "us", "rate", "floor us", "of ceiling", "peer", "peer us", "over peer"),
        live=live,
    )
    gigabytes, teraflops = ceilings.bytes_per_us / 1e3, ceilings.flop_per_us / 1e6
    report.notes.append(f"Ceilings: copy {gigabytes:,.0f} GB/s, product {teraflops:,.0f} TFLOP/s.")
    for part in PARTS:
        for item in part():
            if not item.name.startswith(only):
                continue
            took = clock(item.all) / (1 + len(item.others))
            floor = item.num_bytes / ceilings.bytes_per_us + item.flop / ceilings.flop_per_us
            rate = (
                f"{item.flop / took / 1e6:,.0f} TFLOP/s"
                if item.flop
                else f"{item.num_bytes / took / 1e3:,.0f} GB/s"
            )
            peer = clock(item.peer_work) if item.peer_work else None
            report.add(
                item.name, took, rate, floor, f"{floor / took:.0%}",
                item.peer, peer or "", peer / took if peer else "",
            )  # fmt: skip
            if item.share:
                of = "the product rate" if item.flop else "the copy rate"
                report.check(Target(f"{item.name}, share of {of}", floor / took, least=item.share))
            if item.ratio and peer:
                report.check(
                    Target(f"{item.name}, over {item.peer}", peer / took, least=item.ratio)
                )
    return report


def _normal(*shape: int, dtype: torch.dtype = BF16) -> Tensor:
    return torch.randn(shape, device=DEVICE, dtype=F32).to(dtype)


def _ints(values: list[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.int32).to(DEVICE)


@dataclass(frozen=True, slots=True)
class _Context:
    """Requests of equal length with their tokens anywhere in the pool, and the same keys in a row for the peer."""

    k_pool: Tensor
    v_pool: Tensor
    table: Tensor
    rows: Tensor
    kv_len: Tensor
    length: int
    k_scale: Tensor | None = None
    v_scale: Tensor | None = None

    @property
    def num_bytes(self) -> float:
        """Of K and V, read once, and their scales."""
        per_head = D * self.k_pool.element_size() + (0 if self.k_scale is None else 4)
        return 2.0 * self.rows.shape[0] * self.length * KV_HEADS * per_head

    def stored(self, dtype: torch.dtype) -> "_Context":
        """The same with K and V quantised."""
        k, k_scale = quantize_heads(self.k_pool, dtype)
        v, v_scale = quantize_heads(self.v_pool, dtype)
        return replace(self, k_pool=k, v_pool=v, k_scale=k_scale, v_scale=v_scale)

    def in_a_row(self) -> tuple[Tensor, Tensor]:
        """K and V as [requests, kv_heads, length, D]."""
        k, v = (
            F.embedding(self.table, pool.flatten(1)).view(*self.table.shape, KV_HEADS, D)
            for pool in (self.k_pool, self.v_pool)
        )
        return k.transpose(1, 2).contiguous(), v.transpose(1, 2).contiguous()


def _context(num_requests: int, length: int, shared: int = 0) -> _Context:
    """`shared` first tokens are the same slots for all."""
    own = length - shared
    num_slots = shared + num_requests * own
    slots = torch.randperm(num_slots, device=DEVICE, dtype=torch.int32)
    common, others = torch.split_with_sizes(slots, [shared, num_requests * own])
    table = torch.cat((common.expand(num_requests, -1), others.view(num_requests, own)), 1)
    return _Context(
        _normal(num_slots, KV_HEADS, D), _normal(num_slots, KV_HEADS, D), table,
        torch.arange(num_requests, dtype=torch.int32, device=DEVICE),
        torch.full((num_requests,), length, dtype=torch.int32, device=DEVICE), length,
    )  # fmt: skip


def _attend(context: _Context, new: int, shared: int = 0) -> tuple[Work, Tensor]:
    """Our attention of `new` tokens a request, and q."""
    num_requests = context.rows.shape[0]
    q = _normal(num_requests * new, HEADS, D)
    out = torch.empty_like(q)
    starts = torch.arange(num_requests + 1, dtype=torch.int32, device=DEVICE) * new
    workspace = api.make_workspace(num_requests, len(q), HEADS, D, DEVICE)
    groups = None
    if shared:
        groups = api.SharedPrefixes(
            _ints([0, num_requests]),
            context.rows,
            _ints([shared]),
            torch.full_like(context.rows, shared),
        )

    def work() -> None:
        api.attend(
            q, context.k_pool, context.v_pool, context.table, context.rows, starts, context.kv_len, out, D**-0.5,
            k_scale=context.k_scale, v_scale=context.v_scale, workspace=workspace, max_new_tokens=new, shared=groups,
        )  # fmt: skip

    return work, q


def _sdpa(context: _Context, q: Tensor, new: int) -> Work:
    """torch's attention over keys in a row; causal where all tokens are new."""
    k, v = context.in_a_row()
    queries = q.view(len(k), new, HEADS, D).transpose(1, 2)
    causal = new == context.length
    return lambda: F.scaled_dot_product_attention(queries, k, v, is_causal=causal, enable_gqa=True)


def decode() -> Iterator[Item]:
    """One new token a request, over slots; SDPA reads keys in a row."""
    for num_requests, length, share in ((32, 2048, 0.85), (1, 32_768, 0.85), (128, 1024, 0.0)):
        context = _context(num_requests, length)
        work, q = _attend(context, 1)
        others = tuple(_attend(_context(num_requests, length), 1)[0] for _ in range(3))
        name = f"decode {num_requests} x {length:,}"
        yield Item(
            name, work, context.num_bytes, peer="SDPA, contiguous", peer_work=_sdpa(context, q, 1),
            others=others, share=share,
        )  # fmt: skip
        if importlib.util.find_spec("flashinfer"):
            yield Item(name + " beside flashinfer", work, context.num_bytes, peer="flashinfer, page 1",
                       peer_work=_flashinfer_decode(context, q))  # fmt: skip
        yield from _quantized(name, context, 1, work)


def _quantized(name: str, context: _Context, new: int, plain: Work) -> Iterator[Item]:
    """The same over K/V in 8 bits; the peer is ourselves over bf16."""
    for kind, dtype in (("int8", torch.int8), ("fp8", torch.float8_e4m3fn)):
        over = context.stored(dtype)
        work, _ = _attend(over, new)
        yield Item(f"{name}, {kind} K/V", work, over.num_bytes, peer="bf16 K/V", peer_work=plain)


def _flashinfer_decode(context: _Context, q: Tensor) -> Work:
    # An optional peer: only where it is installed.
    import flashinfer  # type: ignore[import-not-found]  # noqa: PLC0415

    scratch = torch.empty(128 << 20, dtype=torch.uint8, device=DEVICE)
    wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(scratch, "NHD")
    num_requests = context.rows.shape[0]
    starts = torch.arange(num_requests + 1, dtype=torch.int32, device=DEVICE) * context.length
    ones = torch.ones(num_requests, dtype=torch.int32, device=DEVICE)
    wrapper.plan(starts, context.table.flatten(), ones, HEADS, KV_HEADS, D, 1, q_data_type=BF16)
    pages = (context.k_pool.unsqueeze(1), context.v_pool.unsqueeze(1))
    return lambda: wrapper.run(q, pages)


def cascade() -> Iterator[Item]:
    """64 requests with 4,096 tokens in common and 256 of their own; the peer is ourselves without sharing."""
    context = _context(64, 4096 + 256, shared=4096)
    together, _ = _attend(context, 1, shared=4096)
    alone, _ = _attend(context, 1)
    num_bytes = 2.0 * (4096 + 64 * 256) * KV_HEADS * D * 2
    yield Item(
        "cascade 64 x (4,096 + 256)", together, num_bytes, peer="unshared", peer_work=alone, ratio=8
    )


def extend() -> Iterator[Item]:
    """Prompts, and a few new tokens over a long prefix (jump-forward, forks)."""
    for length in (4096, 8192):
        context = _context(1, length)
        work, q = _attend(context, length)
        flop = 4.0 * HEADS * D * length * (length + 1) / 2
        yield Item(
            f"extend {length:,} new",
            work,
            flop=flop,
            peer="SDPA, causal",
            peer_work=_sdpa(context, q, length),
            share=0.6,
        )
    context = _context(8, 8192)
    work, _ = _attend(context, 8)
    yield Item("extend 8 x 8 new over 8,192", work, context.num_bytes)
    yield from _quantized("extend 8 x 8 new over 8,192", context, 8, work)


def pointwise() -> Iterator[Item]:
    """Norm, gate and rotation for 64 tokens and for 4,096; torch's own operations as the peer."""
    for num_tokens in (64, 4096):
        x, residual, weight = (
            _normal(num_tokens, HIDDEN),
            _normal(num_tokens, HIDDEN),
            _normal(HIDDEN),
        )
        out, gate_up, gated = (
            torch.empty_like(x),
            _normal(num_tokens, 2 * WIDTH),
            _normal(num_tokens, WIDTH),
        )

        yield Item(
            f"add_rms_norm {num_tokens:,}", partial(api.add_rms_norm, x, residual, weight, 1e-6, out),
            8.0 * x.numel(), peer="torch", peer_work=partial(_torch_norm, x, residual, weight),
        )  # fmt: skip
        yield Item(
            f"silu_mul {num_tokens:,}", partial(api.silu_mul, gate_up, gated),
            6.0 * gated.numel(), peer="torch", peer_work=partial(_torch_gate, gate_up),
        )  # fmt: skip
        yield _rope(num_tokens)


def _torch_norm(x: Tensor, residual: Tensor, weight: Tensor) -> None:
    residual.add_(x)
    F.rms_norm(residual, (HIDDEN,), weight, 1e-6)


def _torch_gate(gate_up: Tensor) -> Tensor:
    gate, up = torch.chunk(gate_up, 2, dim=-1)
    return F.silu(gate) * up


def _rope(num_tokens: int) -> Item:
    qkv = _normal(num_tokens, (HEADS + 2 * KV_HEADS) * D)
    pool = _normal(num_tokens, KV_HEADS, D)
    values, q = torch.empty_like(pool), _normal(num_tokens, HEADS, D)
    angles = _normal(num_tokens, D // 2, dtype=F32)
    places = torch.arange(num_tokens, dtype=torch.int32, device=DEVICE)

    def work() -> None:
        api.rope_store_kv(qkv, angles, angles, places, places, pool, values, q)

    return Item(f"rope_store_kv {num_tokens:,}", work, 4.0 * qkv.numel())


def sample() -> Iterator[Item]:
    """Rows of 128,256 logits in every way of choosing, all masked; the floor is one read of the logits."""
    for num_rows in (64, 256):
        yield from _sample(num_rows)


def _sample(num_rows: int) -> Iterator[Item]:
    words = -(-VOCAB // 32)
    logits = _normal(num_rows, VOCAB)
    out = torch.empty(num_rows, dtype=torch.int32, device=DEVICE)
    workspace = api.make_sampling_workspace(num_rows, VOCAB, DEVICE)
    ways = {
        "greedy": (0.0, 0, 1.0),
        "temperature": (0.8, 0, 1.0),
        "top-k 50": (0.8, 50, 1.0),
        "top-p 0.9": (0.8, 0, 0.9),
    }
    for name, (temperature, top_k, top_p) in ways.items():
        rows = api.device_rows(_rows(num_rows, words, temperature, top_k, top_p), VOCAB, _there)
        peer = partial(_torch_sample, logits, temperature, top_p)
        yield Item(
            f"sample {num_rows} rows, {name}", partial(api.sample_on_device, logits, rows, out, workspace),
            2.0 * logits.numel(), peer="" if top_k else "torch, no mask", peer_work=None if top_k else peer,
            share=0.5,
        )  # fmt: skip


def _there(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array).to(DEVICE)


def _torch_sample(logits: Tensor, temperature: float, top_p: float) -> Tensor:
    if temperature == 0:
        return logits.argmax(-1)
    weights = (logits.float() / temperature).softmax(-1)
    if top_p < 1:
        ordered, ids = weights.sort(-1, descending=True)
        ordered.masked_fill_(ordered.cumsum(-1) - ordered >= top_p, 0.0)
        weights = torch.zeros_like(weights).scatter_(1, ids, ordered)
    # The exponential race: as multinomial, which waits for the host.
    return (weights / torch.empty_like(weights).exponential_()).argmax(-1)


def _rows(num_rows: int, words: int, temperature: float, top_k: int, top_p: float) -> SamplingRows:
    """Rows that choose alike, under a mask that allows all."""
    none, starts = np.zeros(0, np.int32), np.zeros(num_rows + 1, np.int32)
    zeros, ones = np.zeros(num_rows, np.float32), np.ones(num_rows, np.float32)
    numbers = np.arange(num_rows, dtype=np.int64)
    return SamplingRows(
        temperature=ones * np.float32(temperature), top_p=ones * np.float32(top_p), min_p=zeros,
        top_k=np.full(num_rows, top_k, np.int32), repetition_penalty=ones, frequency_penalty=zeros,
        presence_penalty=zeros, seed=numbers, position=numbers, has_mask=np.ones(num_rows, bool),
        has_penalties=np.zeros(num_rows, bool), mask=np.full((num_rows, words), -1, np.int32), edit_start=starts,
        edit_ids=none, edit_values=none.astype(np.float32), context_start=starts, context_ids=none,
        generated_start=starts, generated_ids=none,
    )  # fmt: skip


def linear() -> Iterator[Item]:
    """Products with quantised weights of few tokens and of a prompt's; bf16 as the peer.

    Those of few tokens over weights that the second-level cache does not hold.
    """
    room, qkv = api.make_room(BF16, DEVICE), (HEADS + 2 * KV_HEADS) * D
    bits: api.Bits
    for bits in (4, 8):
        for inputs, outputs in (
            (WIDTH, HIDDEN),
            (HIDDEN, 2 * WIDTH),
            (HIDDEN, qkv),
            (HIDDEN, HIDDEN),
        ):
            weight = _normal(outputs, inputs)
            packed = api.quantize_linear(weight, bits, 128)
            copies = [_copied(packed) for _ in range(WEIGHTS_BYTES // packed.num_bytes)]
            for num_rows in (1, 16, 32, 64, 2048) if inputs == WIDTH else (1, 16):
                x = _normal(num_rows, inputs)
                name = f"int{bits} linear {inputs:,} to {outputs:,}, {num_rows:,} rows"
                of_copies = tuple(partial(api.linear, x, copy, room) for copy in copies)
                flop = 2.0 * num_rows * inputs * outputs if num_rows > 64 else 0.0
                target = bits == 4 and num_rows <= 16
                yield Item(
                    name, partial(api.linear, x, packed, room), 0.0 if flop else float(packed.num_bytes), flop,
                    peer="bf16 product", peer_work=partial(torch.mm, x, weight.T),
                    others=() if flop else of_copies, share=0.7 if target else 0.0,
                )  # fmt: skip


WEIGHTS_BYTES = 256 << 20


def _copied(linear: api.QuantizedLinear) -> api.QuantizedLinear:
    return replace(linear, weight=linear.weight.clone(), scale=linear.scale.clone())


def dense() -> Iterator[Item]:
    """The library's products in bf16 of one row: each matrix of a layer, and the head."""
    sizes = (
        (HIDDEN, 6144),
        (HIDDEN, HIDDEN),
        (HIDDEN, 2 * WIDTH),
        (WIDTH, HIDDEN),
        (HIDDEN, VOCAB),
    )
    for inputs, outputs in sizes:
        x, weights = _normal(1, inputs), [_normal(outputs, inputs) for _ in range(4)]
        work, *others = (partial(F.linear, x, weight) for weight in weights)
        yield Item(
            f"bf16 linear {inputs:,} to {outputs:,}, 1 row",
            work,
            2.0 * inputs * outputs,
            others=tuple(others),
        )


def experts() -> Iterator[Item]:
    """A layer of Mixtral 8x7B and one of Qwen3-30B-A3B: routing and the first product; the peer is all experts."""
    shapes = (8, 2, HIDDEN, WIDTH), (128, 8, 2048, 768)
    for (num_experts, choices, hidden, width), num_tokens in itertools.product(
        shapes, (1, 32, 2048)
    ):
        x, scores = _normal(num_tokens, hidden), _normal(num_tokens, num_experts)
        weights = _normal(num_experts, 2 * width, hidden)
        num_pairs = num_tokens * choices
        out, shares = _normal(num_pairs, 2 * width), _normal(num_tokens, choices, dtype=F32)
        chosen, count, pairs = (
            torch.empty(shape, dtype=torch.int32, device=DEVICE)
            for shape in ((num_tokens, choices), (num_experts,), (num_experts, num_tokens))
        )

        def work(
            x: Tensor = x, scores: Tensor = scores, weights: Tensor = weights, out: Tensor = out,
            shares: Tensor = shares, chosen: Tensor = chosen, count: Tensor = count, pairs: Tensor = pairs,
        ) -> None:  # fmt: skip
            api.route(scores, True, shares, chosen, count, pairs)
            api.expert_linear(x, weights, count, pairs, out)

        share_met = (
            1 - (1 - choices / num_experts) ** num_tokens
        )  # of the experts, by tokens spread evenly
        read = weights.nbytes * share_met
        flop = 4.0 * num_pairs * width * hidden
        peer = partial(torch.matmul, x, weights.transpose(1, 2))
        yield Item(
            f"experts {choices} of {num_experts}, {num_tokens:,} rows", work,
            read if num_tokens < 64 else 0.0, flop if num_tokens >= 64 else 0.0, peer="all experts", peer_work=peer,
        )  # fmt: skip


def adapters() -> Iterator[Item]:
    """What adapters of rank 16 add to the product of q, k and v, and to that which ends the MLP; rows take turns.

    The peer applies one adapter to all rows, with torch's products.
    """
    shapes = (HIDDEN, ((HEADS + 2 * KV_HEADS) * D // 3,) * 3), (WIDTH, (HIDDEN,))
    for (inputs, widths), number, num_tokens in itertools.product(shapes, (1, 8), (1, 32, 2048)):
        rank, columns = 16, sum(widths)
        weights = api.LowRank(
            _normal(number, len(widths) * rank, inputs), _normal(number, columns, rank), widths
        )
        layers = (api.LayerAdapters(qkv=weights),)
        rows = api.make_adapter_rows(api.AdapterWeights(number, rank, layers), num_tokens, DEVICE)
        numbers = torch.arange(num_tokens, dtype=torch.int32, device=DEVICE) % number + 1
        x, out = _normal(num_tokens, inputs), _normal(num_tokens, columns)
        api.group_rows(numbers, rows)
        met = min(number, num_tokens)
        read = met * (weights.shrink.nbytes + weights.expand.nbytes) / number
        moved = 2.0 * (x.numel() + 2 * out.numel())
        one = weights.shrink[0], weights.expand[0]

        def peer(x: Tensor = x, one: tuple[Tensor, Tensor] = one, rank: int = rank) -> None:
            F.linear(F.linear(x, one[0])[:, :rank], one[1])

        yield Item(
            f"adapters {number} of rank {rank}, {inputs:,} to {columns:,}, {num_tokens:,} rows",
            partial(api.low_rank, x, weights, rows, out), read + moved, peer="one, two products", peer_work=peer,
        )  # fmt: skip


PARTS = (decode, cascade, extend, sample, linear, dense, pointwise, experts, adapters)
"""What has a target comes first."""
