"""What every form of an operation is held to: the same inputs for the reference, the interpreter and a device.

Inputs are poisoned where nothing may be read and outputs where all must be written: NaN in outputs, workspaces and
slots that are not in use, and behind outputs. A request's slots lie anywhere in the pool. Sizes are tiny, lengths sit
around the edges of blocks (16 keys) and splits (32).
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from tests.kernels.sampling_rows import VOCAB, Row, make_rows
from torch import Tensor

from branchwork.kernels import reference
from branchwork.kernels.automaton import Automata, Places
from branchwork.kernels.lanes import Lanes, RowState
from branchwork.kernels.quantized import quantize_heads, quantize_linear
from branchwork.kernels.reference import choice_weights
from branchwork.kernels.sampling import random_uniform

BF16, F32, F64 = torch.bfloat16, torch.float32, torch.float64
FP8, INT8 = torch.float8_e4m3fn, torch.int8

TOLERANCE = {F64: 1e-10, F32: 2e-5, BF16: 2e-2}
"""Absolute, and relative to the expected value, by the dtype of the outputs."""

BIG = 10**8
"""A tensor of more elements is virtual memory: it is neither copied nor converted."""


@dataclass(frozen=True)
class Case:
    """A call: the arguments, by the names of `kernels.api`, and which of them are written."""

    operation: str
    name: str
    make: Callable[[], dict[str, Any]] = field(repr=False)
    written: tuple[str, ...] = ("out",)
    tolerance: float | None = None
    excuse: Callable[[dict[str, Any], int, int], bool] | None = field(default=None, repr=False)
    """Whether the integer at a place of the first output may be another one than the expected."""

    def __str__(self) -> str:
        return f"{self.operation}: {self.name}"


def widened(arguments: dict[str, Any]) -> dict[str, Any]:
    """The same call in float64; what is quantised stays as it is stored, and so do its scales."""
    return {
        name: value.double()
        if isinstance(value, Tensor) and value.dtype in (BF16, F32) and value.numel() < BIG
        else value
        for name, value in arguments.items()
    }


def compare(case: Case, found: dict[str, Any], expected: dict[str, Any]) -> str | None:
    """What is wrong with a call's outputs, or None."""
    for name in case.written:
        have, want = found[name], expected[name]
        if name == case.written[0] and case.excuse is not None:
            places = (have != want).nonzero().flatten().tolist()
            unexcused = [i for i in places if not case.excuse(expected, i, int(have[i]))]
            if unexcused:
                return f"{name}: {[(i, int(have[i]), int(want[i])) for i in unexcused]} (row, found, expected)"
            if places:  # the other outputs belong to what was found
                return None
            continue
        if not have.dtype.is_floating_point or have.dtype is FP8:
            bits = have.view(torch.uint8) if have.dtype is FP8 else have
            wanted = want.view(torch.uint8) if want.dtype is FP8 else want
            if not torch.equal(bits, wanted):
                return f"{name}: {int((bits != wanted).sum())} of {bits.numel()} differ"
            continue
        whole = torch.empty(0, dtype=have.dtype).set_(have.untyped_storage())
        if not whole[have.storage_offset() + have.numel() :].isnan().all():
            return f"{name}: written past its end"
        tolerance = case.tolerance or TOLERANCE[have.dtype]
        difference = (have.double() - want.double()).abs()
        allowed = tolerance * (1 + want.double().abs())
        # Untouched places are NaN in both; what cannot be is -inf in both.
        wrong = ~(difference <= allowed) & ~(have.isnan() & want.isnan()) & (have != want)
        if bool(wrong.any()):
            worst = torch.where(wrong, difference.nan_to_num(math.inf), 0.0).max()
            return (
                f"{name}: {int(wrong.sum())} of {wrong.numel()} wrong, by up to {float(worst):.3g}"
            )
    return None


def ints(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


def starts(counts: list[int]) -> Tensor:
    return ints(*itertools.accumulate(counts, initial=0))


def poisoned(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.full(shape, math.nan, dtype=dtype)


# Attention ----------------------------------------------------------------------------------------------------------


def attention(
    new: list[int],
    lengths: list[int],
    heads: tuple[int, int, int],
    dtype: torch.dtype,
    *,
    stored: torch.dtype | None = None,
    window: int = 0,
    magnitude: float = 1.0,
    groups: tuple[tuple[tuple[int, ...], int], ...] = (),
    empty_groups: int = 0,
) -> dict[str, Any]:
    """Requests with `new` tokens each of `lengths` in all; members of a group share their first slots.

    A request's row in the table is not its number; entries past its length point to poison.
    """
    num_heads, kv_heads, dim = heads
    generator = torch.Generator().manual_seed(sum(lengths) + 1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    num_slots = sum(lengths) + 7
    order = torch.randperm(num_slots, generator=generator)
    used, poison = order[: sum(lengths)], int(order[-1])
    k, v = (poisoned(num_slots, kv_heads, dim, dtype=F32) for _ in "kv")
    k[used], v[used] = (
        normal(len(used), kv_heads, dim) * magnitude,
        normal(len(used), kv_heads, dim),
    )
    rows = torch.randperm(len(lengths), generator=generator).to(torch.int32)
    table = torch.full((len(lengths), max([*lengths, 1]) + 3), poison, dtype=torch.int32)
    for row, own in zip(rows.tolist(), used.split(lengths), strict=True):
        table[row, : len(own)] = own
    for members, length in groups:
        for member in members[1:]:
            table[rows[member], :length] = table[rows[members[0]], :length]
    arguments: dict[str, Any] = {
        "q": (normal(sum(new), num_heads, dim) * magnitude).to(dtype),
        "k_pool": k.to(dtype), "v_pool": v.to(dtype), "slot_table": table, "rows": rows,
        "query_start": starts(new), "kv_len": ints(*lengths),
        "out": poisoned(sum(new) + 4, num_heads, dim, dtype=dtype)[: sum(new)], "scale": dim**-0.5, "window": window,
    }  # fmt: skip
    if stored is not None:
        arguments["k_pool"], arguments["k_scale"] = quantize_heads(k, stored)
        arguments["v_pool"], arguments["v_scale"] = quantize_heads(v, stored)
    if groups:
        arguments["groups"] = (*groups, *[((), 0)] * empty_groups)
    return arguments


def attention_in_a_huge_pool() -> dict[str, Any]:
    """K and V of more than 2^31 elements each, nearly all of it memory that is never touched."""
    kv_heads, dim = 8, 128
    num_slots = 2**31 // (kv_heads * dim) + 64
    generator = torch.Generator().manual_seed(2)
    k, v = (torch.empty(num_slots, kv_heads, dim, dtype=BF16) for _ in "kv")
    slots = torch.tensor([num_slots - 1, 0, num_slots - 2, 5])
    for pool in (k, v):
        pool[slots] = torch.randn(4, kv_heads, dim, generator=generator).to(BF16)
    return {
        "q": torch.randn(1, 8, dim, generator=generator).to(BF16), "k_pool": k, "v_pool": v,
        "slot_table": slots.view(1, 4).to(torch.int32), "rows": ints(0), "query_start": ints(0, 1),
        "kv_len": ints(4), "out": poisoned(1, 8, dim, dtype=BF16), "scale": dim**-0.5, "window": 0,
    }  # fmt: skip


_EDGES = [1, 15, 16, 17, 33, 0, 64, 129]
_DECODE = [1] * len(_EDGES)
_SHARED = (((1, 3, 4), 33), ((6, 5), 64))
_SHARED_LENGTHS = [20, 34, 9, 66, 40, 65, 129, 1]

ATTENTION = [
    *(
        Case("attend", f"decode {heads} {dtype}", lambda h=heads, d=dtype: attention(_DECODE, _EDGES, h, d))
        for heads in [(4, 4, 16), (8, 2, 32), (7, 1, 32)]
        for dtype in (F32, BF16)
        if dtype is BF16 or heads[0] == 7
    ),
    Case("attend", "decode, window", lambda: attention(_DECODE, _EDGES, (4, 2, 16), F32, window=20)),
    Case("attend", "decode, logits of 1e4", lambda: attention(_DECODE, _EDGES, (4, 2, 16), BF16, magnitude=70)),
    Case("attend", "decode, fp8", lambda: attention(_DECODE, _EDGES, (4, 2, 16), BF16, stored=FP8)),
    Case("attend", "decode, int8", lambda: attention(_DECODE, _EDGES, (4, 2, 16), BF16, stored=INT8)),
    Case("attend", "decode, pool beyond 2^31", attention_in_a_huge_pool),
    Case("attend", "shared prefixes", lambda: attention(
        [1] * 8, _SHARED_LENGTHS, (4, 2, 16), F32, groups=_SHARED, empty_groups=2)),
    Case("attend", "shared prefixes 7:1", lambda: attention(
        [1] * 8, _SHARED_LENGTHS, (7, 1, 32), BF16, groups=_SHARED)),
    Case("attend", "shared prefixes, window", lambda: attention(
        [1] * 8, _SHARED_LENGTHS, (4, 2, 16), F32, groups=_SHARED, window=20)),
    *(Case("attend", f"shared prefixes, {d}", lambda d=d: attention(
        [1] * 8, _SHARED_LENGTHS, (4, 2, 16), BF16, groups=_SHARED, stored=d)) for d in (INT8, FP8)),
    *(
        Case("attend", f"extend {heads} {dtype}", lambda h=heads, d=dtype: attention(
            [3, 0, 20, 1, 5, 17, 2], [100, 7, 20, 129, 32, 50, 0], h, d))
        for heads, dtype in [((4, 4, 16), BF16), ((4, 2, 16), F32), ((7, 1, 32), BF16)]
    ),
    Case("attend", "extend, one tile exactly", lambda: attention([8, 16], [40, 16], (4, 2, 16), F32)),
    Case("attend", "extend, a split that only the last token sees", lambda: attention([3], [98], (4, 2, 16), F32)),
    Case("attend", "extend, window", lambda: attention([3, 20, 1], [100, 40, 61], (4, 2, 16), F32, window=20)),
    Case("attend", "extend, fp8", lambda: attention([3, 20], [70, 40], (4, 2, 16), BF16, stored=FP8)),
    Case("attend", "extend, int8, window", lambda: attention(
        [3, 20], [70, 40], (4, 2, 16), BF16, stored=INT8, window=20)),
]  # fmt: skip


# With the committed blocks, which the others are too small for; for each device those that no other has. On a GPU all
# of them run with its own.
def tuned(capability: int, *of: Any, **settings: Any) -> Callable[[], dict[str, Any]]:
    return lambda: attention(*of, **settings) | {"capability": capability}


_FEW_AND_MANY = ([2, 40], [530, 60])
_LONG_PREFIX = {"groups": (((0, 2, 1), 320),), "empty_groups": 1}
TUNED = [
    Case("attend_as_tuned", "decode", tuned(90, [1] * 5, [1, 255, 257, 600, 64], (8, 2, 64), BF16)),
    Case("attend_as_tuned", "shared prefixes", tuned(
        90, [1] * 4, [400, 321, 700, 9], (8, 2, 64), BF16, **_LONG_PREFIX)),
    Case("attend_as_tuned", "extend", tuned(90, [2, 70, 33, 5], [700, 200, 33, 512], (8, 2, 64), BF16)),
    Case("attend_as_tuned", "shared prefixes, sm_80", tuned(
        80, [1] * 3, [330, 321, 580], (8, 2, 64), BF16, **_LONG_PREFIX)),
    Case("attend_as_tuned", "extend, sm_80", tuned(80, *_FEW_AND_MANY, (8, 2, 64), BF16)),
    Case("attend_as_tuned", "extend, int8, sm_80", tuned(80, *_FEW_AND_MANY, (8, 2, 64), BF16, stored=INT8)),
    Case("attend_as_tuned", "shared prefixes, int8, sm_100", tuned(
        100, [1] * 3, [330, 321, 580], (8, 2, 64), BF16, stored=INT8, **_LONG_PREFIX)),
    Case("attend_as_tuned", "shared prefixes, int8, D 256, sm_100", tuned(
        100, [1] * 3, [330, 321, 360], (4, 1, 256), BF16, stored=INT8, **_LONG_PREFIX)),
    Case("attend_as_tuned", "extend, D 256, sm_100", tuned(100, *_FEW_AND_MANY, (4, 1, 256), BF16)),
]  # fmt: skip

# Pointwise ----------------------------------------------------------------------------------------------------------


def rope(
    heads: tuple[int, int, int],
    dtype: torch.dtype,
    *,
    norm: bool = False,
    stored: torch.dtype | None = None,
) -> dict[str, Any]:
    """Five tokens, one of them padding; the slots that none of them has stay NaN (0 where that cannot be)."""
    num_heads, kv_heads, dim = heads
    generator = torch.Generator().manual_seed(dim)
    angles = torch.arange(16)[:, None] * 10000 ** (-torch.arange(0, dim, 2) / dim)
    pool = poisoned(9, kv_heads, dim, dtype=dtype)
    qkv = torch.randn(5, (num_heads + 2 * kv_heads) * dim, generator=generator)
    qkv[2, -dim:] = 0  # a head of zeros has a scale too
    arguments: dict[str, Any] = {
        "qkv": qkv.to(dtype), "cos": angles.cos(), "sin": angles.sin(),
        "positions": ints(0, 3, 15, 2, 1), "slots": ints(4, 0, 8, -1, 2), "k_pool": pool, "v_pool": pool.clone(),
        "q_out": poisoned(5, num_heads, dim, dtype=dtype), "q_norm": None, "k_norm": None, "eps": 1e-6,
    }  # fmt: skip
    if norm:
        weights = torch.randn(2, dim, generator=generator).to(dtype)
        arguments["q_norm"], arguments["k_norm"] = weights[0].clone(), weights[1].clone()
    if stored is not None:
        for name in ("k", "v"):
            arguments[f"{name}_pool"] = torch.zeros(9, kv_heads, dim, dtype=stored)
            arguments[f"{name}_scale"] = poisoned(9, kv_heads, dtype=F32)
    return arguments


_POOLS = ("q_out", "k_pool", "v_pool")
_SCALED = (*_POOLS, "k_scale", "v_scale")


def rows_of(width: int, dtype: torch.dtype, *names: str) -> dict[str, Any]:
    """Three rows under each name, a weight, and an output."""
    generator = torch.Generator().manual_seed(width)
    arguments: dict[str, Any] = {
        name: (torch.randn(3, width, generator=generator) * 2).to(dtype) for name in names
    }
    arguments["weight"] = torch.randn(width, generator=generator).to(dtype)
    return arguments | {"eps": 1e-5, "out": poisoned(3, width, dtype=dtype)}


def gate(width: int, dtype: torch.dtype) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(width)
    gate_up = (torch.randn(3, 2 * width, generator=generator) * 4).to(dtype)
    return {"gate_up": gate_up, "out": poisoned(3, width, dtype=dtype)}


def gather(dtype: torch.dtype) -> dict[str, Any]:
    table = torch.randn(11, 1030, generator=torch.Generator().manual_seed(0)).to(dtype)
    return {"token_ids": ints(10, 0, 10, 3), "table": table, "out": poisoned(4, 1030, dtype=dtype)}


POINTWISE = [
    Case("rope_store_kv", "plain", lambda: rope((4, 2, 16), F32), _POOLS),
    Case("rope_store_kv", "7:1, norms", lambda: rope((7, 1, 32), BF16, norm=True), _POOLS, 4e-2),
    Case("rope_store_kv", "fp8", lambda: rope((4, 2, 16), F32, stored=FP8), _SCALED),
    Case("rope_store_kv", "int8", lambda: rope((4, 2, 16), F32, stored=INT8), _SCALED),
    *(Case("rms_norm", f"{w} {d}", lambda w=w, d=d: rows_of(w, d, "x"), ("out",), 4e-2 if d is BF16 else None)
      for w in (48, 1025) for d in (F32, BF16)),
    *(Case("add_rms_norm", f"{d}", lambda d=d: rows_of(48, d, "x", "residual"), ("out", "residual"),
           4e-2 if d is BF16 else None)
      for d in (F32, BF16)),
    *(Case("silu_mul", f"{w} {d}", lambda w=w, d=d: gate(w, d)) for w in (32, 1030) for d in (F32, BF16)),
    Case("embed", "rows", lambda: gather(BF16)),
]  # fmt: skip

# Sampling -----------------------------------------------------------------------------------------------------------


def sampling(
    *rows: Row,
    vocab: int = VOCAB,
    dtype: torch.dtype = F32,
    magnitude: float = 3.0,
    ties: bool = False,
) -> dict[str, Any]:
    """A row of logits for each row of settings; the logits are a view of wider ones, whose last columns are poison."""
    generator = torch.Generator().manual_seed(vocab + len(rows))
    logits = poisoned(len(rows), vocab + 9, dtype=dtype)
    values = torch.randn(len(rows), vocab, generator=generator) * magnitude
    logits[:, :vocab] = values.round() if ties else values
    logits[-1, 3] = math.nan
    return {
        "logits": logits[:, :vocab], "rows": make_rows(*rows, vocab=vocab),
        "out": torch.full((len(rows),), 7777, dtype=torch.int32),
        "logprobs": poisoned(len(rows), dtype=F32),
    }  # fmt: skip


def rounding_moved_a_border(arguments: dict[str, Any], row: int, found: int) -> bool:
    """Both draw at one point of the distribution; in float32 a border may lie on its other side."""
    rows, expected = arguments["rows"], int(arguments["out"][row])
    weights = choice_weights(arguments["logits"][row], rows, row)
    if min(found, expected) < 0 or weights[found] == 0:
        return False
    between = weights.cumsum(0)[min(found, expected) : max(found, expected)]
    point = random_uniform(int(rows.seed[row]), int(rows.position[row]))
    return bool((between - point).abs().max() < 1e-5)


_CUTS = [
    {}, {"temperature": 0.0}, {"temperature": 0.5}, {"top_k": 1}, {"top_k": 2}, {"top_k": 17}, {"top_k": 1000},
    {"top_p": 0.9}, {"top_p": 0.5}, {"top_p": 0.0}, {"min_p": 0.1}, {"min_p": 1.0},
    {"top_k": 20, "top_p": 0.8, "min_p": 0.02, "temperature": 1.5}, {"top_k": 3, "top_p": 0.99},
]  # fmt: skip
_LIGHT = [{"top_p": 0.7}, {"top_p": 0.7, "top_k": 270}, {"top_p": 0.8, "min_p": 0.02}]
_MASKS: list[tuple[int, ...] | None] = [
    None,
    (),
    (5,),
    (0, 31, 32, 63, 64, 99),
    tuple(range(1, 99, 3)),
]
_EDITS = [
    {"edits": ((5, 9.0), (5, 2.0), (70, -math.inf))},
    {"edits": ((1, -math.inf),), "allowed": (1, 2)},
    {"edits": ((4, -math.inf),), "allowed": (4,)},
    {"context": (1, 1, 50, 99), "repetition": 1.7},
    {"generated": (2, 2, 2, 64), "frequency": 2.0},
    {"generated": (2, 2, 33), "presence": 3.0, "context": (8,), "repetition": 0.5, "top_k": 5},
]


def _sample(name: str, make: Callable[[], dict[str, Any]]) -> Case:
    return Case("sample", name, make, ("out", "logprobs"), 1e-4, rounding_moved_a_border)


SAMPLING = [
    _sample("cuts", lambda: sampling(*(Row(seed=s, position=s, **c) for s in range(3) for c in _CUTS))),
    _sample("masks", lambda: sampling(*(Row(seed=s, allowed=m, top_k=s % 2 * 2) for s in range(4) for m in _MASKS))),
    _sample("edits", lambda: sampling(*(Row(seed=s, **e) for s in range(3) for e in _EDITS))),
    _sample("greedy edits", lambda: sampling(*(Row(temperature=0.0, **e) for e in _EDITS))),
    _sample("ties", lambda: sampling(
        *(Row(seed=s, top_k=9, top_p=p) for s in range(6) for p in (0.8, 1.0)),
        *(Row(temperature=0.0) for _ in range(3)), ties=True)),
    _sample("bfloat16", lambda: sampling(*(Row(seed=-s, **c) for s, c in enumerate(_CUTS)), dtype=BF16)),
    _sample("logits of 1e4", lambda: sampling(*(Row(seed=s, **c) for s, c in enumerate(_CUTS)), magnitude=1e4)),
    _sample("a light tail", lambda: sampling(
        *(Row(seed=s, position=s, **c) for s in range(4) for c in _LIGHT), vocab=288, magnitude=2.0)),
    _sample("logits nearly flat", lambda: sampling(*(Row(seed=s, **c) for s, c in enumerate(_CUTS)), magnitude=1e-3)),
    _sample("several blocks of candidates", lambda: sampling(
        *(Row(seed=2**62 + s, position=s, **c) for s, c in enumerate(_CUTS)), vocab=333, magnitude=0.5)),
]  # fmt: skip

# Automata and quantised linears -------------------------------------------------------------------------------------


def automata() -> dict[str, Any]:
    """Two machines of 5 and 3 classes over 40 tokens; requests with and without one, one of them without a token."""
    generator = torch.Generator().manual_seed(0)

    def draw(low: int, high: int, size: int, dtype: torch.dtype) -> Tensor:
        return torch.randint(low, high, (size,), generator=generator).to(dtype)

    kinds = torch.cat((draw(0, 5, 40, torch.int16), draw(0, 3, 40, torch.int16)))
    following = torch.cat((draw(-1, 6, 6 * 5, torch.int32), draw(-1, 4, 4 * 3, torch.int32)))
    # The tokens of the first two requests may not follow.
    following[5 * 5 + kinds[0]] = following[30 + 3 * 3 + kinds[40 + 39]] = -1
    machines = Automata(
        kinds, following, draw(0, 4, 10, torch.int8),
        torch.tensor([0, 40]), torch.tensor([0, 30]), ints(5, 3), ints(0, 6),
    )  # fmt: skip
    grammar = ints(0, 1, -1, 0, 1, 0, 1, 0, 0, 1, -1, 1)
    state = ints(5, 3, 77, 0, 0, 2, 1, 3, 4, 2, 77, 0)
    unset = torch.full((12,), 77, dtype=torch.int8)
    places = Places(grammar, state, ints(*[77] * 12), unset, unset.clone())
    tokens = ints(0, 39, 5, 39, -1, 7, 8, 9, 10, 0, -1, 20)
    written = {name: getattr(places, name) for name in ("state", "mask_row", "done", "forced")}
    return {"tokens": tokens, "automata": machines, "places": places, **written}


def quantized(
    num_rows: int, bits: Any, group: int, dtype: torch.dtype, bias: bool = False, width: int = 256
) -> dict[str, Any]:
    """37 outputs: not a whole number of tiles. Behind the last row stands poison, which no product may meet."""
    generator = torch.Generator().manual_seed(num_rows)
    weight = torch.randn(37, width, generator=generator)
    added = torch.randn(37, generator=generator).to(dtype) if bias else None
    x = poisoned(num_rows + 1, width, dtype=dtype)
    x[:-1] = torch.randn(num_rows, width, generator=generator) / 16
    out = poisoned(num_rows + 1, 37, dtype=dtype)[:num_rows]
    linear = quantize_linear(weight, bits, group, added)
    return {"x": x[:num_rows], "weight": linear, "out": out}


def widening(bits: Any, group: int, width: int, dtype: torch.dtype) -> dict[str, Any]:
    """Some of 75 outputs, from one that is not the first to the last."""
    weight = torch.randn(75, width, generator=torch.Generator().manual_seed(width))
    out = poisoned(27 + 1, width, dtype=dtype)[:27]
    return {"weight": quantize_linear(weight, bits, group), "first": 48, "out": out}


def routing(
    scores: Tensor, choices: int, normalised: bool = True, poison: int = 77
) -> dict[str, Any]:
    num_tokens, num_experts = scores.shape
    return {
        "scores": scores, "normalised": normalised, "weight": poisoned(num_tokens, choices, dtype=F32),
        "expert": torch.full((num_tokens, choices), poison, dtype=torch.int32),
        "count": torch.full((num_experts,), poison, dtype=torch.int32),
        "pairs": torch.full((num_experts, num_tokens), poison, dtype=torch.int32),
    }  # fmt: skip


def scored(num_tokens: int, num_experts: int, dtype: torch.dtype = F32) -> Tensor:
    """Scores of which some are equal; expert 1 has none of the tokens, expert 0 nearly all."""
    generator = torch.Generator().manual_seed(num_tokens + num_experts)
    scores = (torch.randn(num_tokens, num_experts, generator=generator) * 2).round() / 2
    scores[:, 1], scores[: num_tokens - num_tokens // 4, 0] = -50.0, 9.0
    return scores.to(dtype)


def odd_scores() -> dict[str, Any]:
    """A row of equal ones, one with NaN, and one of NaN alone."""
    scores = scored(5, 6)
    scores[1], scores[2, 3], scores[3] = 1.0, math.nan, math.nan
    return routing(scores, 3)


def expert_product(
    num_tokens: int, num_experts: int, choices: int, dtype: torch.dtype, by_pair: bool = False
) -> dict[str, Any]:
    """75 outputs of 90 inputs: not a whole number of tiles; behind an expert's pairs stands poison."""
    made = routing(scored(num_tokens, num_experts), choices, poison=2**30)
    reference.route(**made)
    generator = torch.Generator().manual_seed(choices)
    num_pairs = num_tokens * choices
    x = torch.randn(num_pairs if by_pair else num_tokens, 90, generator=generator) / 8
    weight = torch.randn(num_experts, 75, 90, generator=generator)
    out = poisoned(num_pairs + 1, 75, dtype=dtype)[:num_pairs]
    return {
        "x": x.to(dtype),
        "weight": weight.to(dtype),
        "count": made["count"],
        "pairs": made["pairs"],
        "out": out,
    }


def combining(dtype: torch.dtype) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(3)
    values = torch.randn(12, 1030, generator=generator).to(dtype)
    return {
        "values": values,
        "weight": torch.rand(4, 3, generator=generator),
        "out": poisoned(4, 1030, dtype=dtype),
    }


def experts(num_tokens: int, num_experts: int, choices: int, dtype: torch.dtype) -> dict[str, Any]:
    """All of a layer's experts together."""
    generator = torch.Generator().manual_seed(choices)
    hidden, width = 48, 80
    return {
        "x": torch.randn(num_tokens, hidden, generator=generator).to(dtype),
        "scores": scored(num_tokens, num_experts, dtype), "choices": choices,
        "gate_up": (torch.randn(num_experts, 2 * width, hidden, generator=generator) / 7).to(dtype),
        "down": (torch.randn(num_experts, hidden, width, generator=generator) / 9).to(dtype),
        "out": poisoned(num_tokens, hidden, dtype=dtype),
    }  # fmt: skip


def adapted(
    adapter: list[int],
    ranks: list[int],
    dtype: torch.dtype,
    *,
    widths: tuple[int, ...] = (75,),
    width: int = 90,
) -> dict[str, Any]:
    """Tokens of these adapters; tokens without one have poison in x and out, and so has what is behind the last."""
    generator = torch.Generator().manual_seed(len(adapter) + sum(ranks))

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    rank, parts, has_one = max(ranks), len(widths), torch.tensor(adapter) > 0
    shrink, expand = normal(len(ranks), parts, rank, width), normal(len(ranks), sum(widths), rank)
    for number, own in enumerate(ranks):
        shrink[number, :, own:], expand[number, :, own:] = 0, 0
    x = poisoned(len(adapter), width, dtype=dtype)
    out = poisoned(len(adapter) + 1, sum(widths), dtype=dtype)[:-1]
    x[has_one] = (normal(len(adapter), width) / width**0.5)[has_one].to(dtype)
    out[has_one] = normal(*out.shape)[has_one].to(dtype)
    return {
        "x": x, "adapter": ints(*adapter), "shrink": shrink.flatten(1, 2).to(dtype),
        "expand": (expand / rank**0.5).to(dtype), "widths": widths, "out": out,
    }  # fmt: skip


def lanes(**found: Tensor) -> Lanes:
    """Six lanes, two of them padding (five rows); whatever is not given is 77."""
    unset = {name: torch.full((6,), 77, dtype=torch.int32) for name in Lanes.__slots__}
    unset["drawn_at"] = unset["drawn_at"].long()
    return Lanes(**{**unset, "row": ints(3, 5, 0, 4, 5, 1), **found})


def row_state() -> RowState:
    return RowState.of(
        torch.stack(
            (
                ints(11, 12, 13, 14, 15, 0),
                ints(0, 6, 2, 3, 1, 0),
                ints(21, 22, 23, 24, 25, 26),
                ints(31, 32, -1, -1, 35, -1),
            )
        )
    )


def filling() -> dict[str, Any]:
    """Rows in another order than their lanes, at the first and at the last place of the table."""
    table = torch.randperm(35, generator=torch.Generator().manual_seed(0)).int().view(5, 7)
    filled = lanes()
    written = {name: getattr(filled, name) for name in Lanes.__slots__ if name != "row"}
    return {"rows": row_state(), "slot_table": table, "lanes": filled, **written}


def advancing() -> dict[str, Any]:
    """Row 2 is in no lane; one lane has nothing that may follow."""
    rows = row_state()
    after = lanes(state=ints(1, 2, 3, 4, 5, 6), mask_row=ints(7, -1, 8, -1, 9, 10))
    written = {f"rows_{name}": getattr(rows, name) for name in RowState.__slots__}
    return {"chosen": ints(5, 6, -1, 7, 8, 9), "lanes": after, "rows": rows, **written}


_ROUTED = ("weight", "expert", "count")
"""Not the order of an expert's pairs, which on a device is anyone's."""

TABLES = [
    Case("fill_lanes", "padding", filling, tuple(n for n in Lanes.__slots__ if n != "row")),
    Case("advance_rows", "padding", advancing, tuple(f"rows_{n}" for n in RowState.__slots__)),
    Case("fsm_advance", "two machines", automata, ("state", "mask_row", "done", "forced")),
    *(
        Case("quantized_linear", f"{b} bits, group {g}, {m} rows, {d}",
             lambda m=m, b=b, g=g, d=d: quantized(m, b, g, d, m == 17))
        for m, b, g, d in [(1, 8, 64, BF16), (17, 8, 128, F32), (1, 4, 64, F32), (17, 4, 128, BF16), (16, 4, 128, F32),
                           (64, 8, 128, BF16), (33, 4, 64, F32)]
    ),
    *(
        Case("quantized_linear", f"{b} bits, {w} inputs, {d}", lambda w=w, b=b, d=d: quantized(3, b, 128, d, width=w))
        for w, b, d in [(200, 8, F32), (150, 4, F32), (96, 4, BF16)]
    ),
    *(
        Case("quantized_linear_split", f"{b} bits, group {g}, {m} rows, {w} inputs, {d}",
             lambda m=m, b=b, g=g, d=d, w=w: quantized(m, b, g, d, m == 17, w))
        for m, b, g, w, d in [(17, 4, 64, 320, BF16), (1, 8, 64, 256, F32), (3, 4, 128, 500, BF16)]
    ),
    *(
        Case("widen", f"{b} bits, group {g}, {w} inputs, {d}", lambda w=w, b=b, g=g, d=d: widening(b, g, w, d))
        for b, g, w, d in [(8, 128, 256, BF16), (4, 128, 256, BF16), (4, 64, 100, F32), (8, 64, 100, F32)]
    ),
]  # fmt: skip

EXPERTS = [
    Case("route", "some", lambda: routing(scored(13, 8), 2), _ROUTED),
    Case("route", "not normalised", lambda: routing(scored(5, 6, BF16), 4, normalised=False), _ROUTED),
    Case("route", "all of them", lambda: routing(scored(3, 4), 4), _ROUTED),
    Case("route", "NaN and equal scores", odd_scores, _ROUTED),
    *(
        Case("expert_linear", f"{t} tokens, {e} experts, {c} choices, {d}",
             lambda t=t, e=e, c=c, d=d: expert_product(t, e, c, d))
        for t, e, c, d in [(1, 8, 2, F32), (21, 4, 2, BF16), (40, 5, 1, F32)]
    ),
    Case("expert_linear", "a row for each pair", lambda: expert_product(21, 4, 2, F32, by_pair=True)),
    *(Case("combine", f"{d}", lambda d=d: combining(d)) for d in (F32, BF16)),
    Case("experts", "one token", lambda: experts(1, 8, 2, F32)),
    Case("experts", "many tokens", lambda: experts(37, 4, 2, F32)),
]  # fmt: skip

_MIXED = [0, 3, 1, 0, 2, 3, 3, 1, 0, 2, 1, 3] + [3] * 17 + [0, 2]
ADAPTERS = [
    *(
        Case("low_rank", f"rank {r}, {d}", lambda r=r, d=d: adapted(_MIXED, [r] * 3, d))
        for r, d in [(8, BF16), (16, F32), (64, BF16)]
    ),
    Case("low_rank", "mixed ranks, parts", lambda: adapted(_MIXED, [8, 24, 16], F32, widths=(48, 16, 16))),
    Case("low_rank", "parts that end within a tile, bfloat16", lambda: adapted(
        _MIXED, [16, 8, 16], BF16, widths=(37, 5, 33), width=160)),
    Case("low_rank", "two parts", lambda: adapted(_MIXED, [40, 8, 16], F32, widths=(33, 33), width=64)),
    Case("low_rank", "one token", lambda: adapted([2], [8, 8], F32)),
    Case("low_rank", "all of one adapter", lambda: adapted([2] * 33, [8, 8, 8], F32)),
    Case("low_rank", "every token another", lambda: adapted(list(range(9, 0, -1)), [8] * 9, F32)),
    Case("low_rank", "nobody", lambda: adapted([0] * 5, [8, 8], BF16)),
    Case("low_rank", "numbers that no adapter has", lambda: adapted([0, 1, 0, 2], [8, 8], F32) | {
        "adapter": ints(-1, 1, 3, 2)}),
]  # fmt: skip

CASES = [*ATTENTION, *TUNED, *POINTWISE, *SAMPLING, *TABLES, *EXPERTS, *ADAPTERS]
