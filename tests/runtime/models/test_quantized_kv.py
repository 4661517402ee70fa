"""K/V in fewer bits: what they take, that nothing of them is lost on the way, and what they cost in accuracy."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from tests.kernels.cases import attention
from tests.runtime.models.device_programs import MAX_LEN, MAX_ROWS, make_models

from branchwork.kernels import reference
from branchwork.kernels.quantized import quantize_heads
from branchwork.runtime.kv import num_bytes
from branchwork.runtime.models.batch import KvCache, make_cache
from branchwork.runtime.models.device_runner import DeviceRunner
from branchwork.runtime.models.loader import LoadedModel, on_device
from branchwork.runtime.models.memory import slot_bytes
from branchwork.runtime.models.rope import Rotation
from branchwork.runtime.plan import Plan, Score, Segment
from branchwork.runtime.wire.config import RuntimeConfig

MODEL = make_models()["plain"]
KINDS = pytest.mark.parametrize("kind", [torch.int8, torch.float8_e4m3fn], ids=["int8", "float8"])
LOSS = {torch.int8: 0.015, torch.float8_e4m3fn: 0.05}
"""Of attention, beside the size of its output: a level is 1/127 of a head's largest, a float8 has four digits."""


def filled(kind: torch.dtype) -> KvCache:
    table = torch.zeros(2, 8, dtype=torch.int32)
    cache = make_cache(MODEL.config, 9, kind, table, Rotation(MODEL.config.rope, 8))
    values = torch.randn(2, *cache.k.shape, generator=torch.Generator().manual_seed(0))
    assert cache.k_scale is not None
    assert cache.v_scale is not None
    for pool, scales, heads in ((cache.k, cache.k_scale, 0), (cache.v, cache.v_scale, 1)):
        stored, scale = quantize_heads(values[heads], kind)
        pool.copy_(stored)
        scales.copy_(scale)
    return cache


@KINDS
def test_what_leaves_the_pool_comes_back_with_its_scales(kind: torch.dtype) -> None:
    cache, other = filled(kind), filled(kind)
    for tensor in (other.k, other.v, other.k_scale, other.v_scale):
        assert tensor is not None
        tensor.view(torch.uint8).zero_()
    kv = cache.read(np.array([7, 2, 4], np.int32))
    assert {name: (array.dtype.str[1:], array.shape) for name, array in kv.items()} == cache.shapes(
        3
    )
    other.write(np.array([0, 8, 3], np.int32), kv)
    for mine, there in ((cache.k, other.k), (cache.v, other.v)):
        assert torch.equal(mine[:, [7, 2, 4]].float(), there[:, [0, 8, 3]].float())
    for scales, others in ((cache.k_scale, other.k_scale), (cache.v_scale, other.v_scale)):
        assert scales is not None
        assert others is not None
        assert torch.equal(scales[:, [7, 2, 4]], others[:, [0, 8, 3]])
        assert not others[:, 1].any()


@pytest.mark.parametrize("choice", ["int8", "fp8_e4m3"])
def test_the_pool_is_counted_as_what_it_takes(choice: Any) -> None:
    options = RuntimeConfig(kv_cache_dtype=choice)
    model = cast(LoadedModel, SimpleNamespace(config=MODEL.config, decoder=MODEL.decoder))
    kind = torch.int8 if choice == "int8" else torch.float8_e4m3fn
    assert slot_bytes(options, model) == num_bytes(filled(kind).shapes(1))
    assert slot_bytes(options, model) < slot_bytes(RuntimeConfig(), model) / 2


@KINDS
def test_attention_over_it_is_near_attention_in_float64(kind: torch.dtype) -> None:
    given = attention([1, 20, 3], [300, 20, 65], (8, 2, 64), torch.float32)
    wide = {
        n: v.double() if isinstance(v, torch.Tensor) and v.is_floating_point() else v
        for n, v in given.items()
    }
    exact, out = torch.empty_like(wide["q"]), torch.empty_like(given["q"])
    reference.attend(**wide | {"out": exact})
    for name in ("k", "v"):
        used = given[f"{name}_pool"].nan_to_num()
        given[f"{name}_pool"], given[f"{name}_scale"] = quantize_heads(used, kind)
    reference.attend(**given | {"out": out})
    error = float((out - exact).norm() / exact.norm())
    assert LOSS[kind] / 10 < error < LOSS[kind]


@KINDS
def test_a_number_is_stored_within_a_step_of_its_head(kind: torch.dtype) -> None:
    heads = torch.randn(50, 4, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    stored, scale = quantize_heads(heads * 10.0 ** torch.arange(-20, 30)[:, None, None], kind)
    back = stored.double() * scale.double().unsqueeze(-1)
    back /= 10.0 ** torch.arange(-20, 30)[:, None, None]
    top = heads.abs().amax(-1, keepdim=True)
    step = top / 127 / 2 if kind is torch.int8 else heads.abs() / 16 + top / 2**15
    assert ((back - heads).abs() <= step * (1 + 1e-5)).all()


@KINDS
def test_a_model_over_it_says_nearly_what_it_says_over_its_own_type(kind: torch.dtype) -> None:
    """Also that each scale is that of its layer and of K or V: the oracle of the programs shares that code."""
    tokens = tuple(range(40, 140))
    slots = np.arange(len(tokens), dtype=np.int32)[::-1] + 3

    def logprobs(kv_dtype: torch.dtype | None) -> list[float]:
        there = on_device(MODEL, "cpu")
        runner = DeviceRunner(there, 256, MAX_ROWS, MAX_LEN, 256, kv_dtype=kv_dtype)
        score = Score(0, tokens[1:])
        plan = Plan((Segment(0, 0, tokens, slots.copy(), score=score),))
        return [one.logprob for one in runner.launch(plan).result().results[0].scored]

    difference = np.abs(np.subtract(logprobs(kind), logprobs(None)))
    assert 1e-4 < difference.mean() < 4 * LOSS[kind]
