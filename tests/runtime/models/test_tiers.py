"""Whose K/V a store holds."""

from dataclasses import replace
from typing import Any

from branchwork.runtime.models.loader import load_model
from branchwork.runtime.models.tiers import kv_identity
from branchwork.runtime.wire.config import RuntimeConfig


def identity(digest: str = "weights", **options: Any) -> str:
    config = RuntimeConfig(dtype="bfloat16", **options)
    return kv_identity(config, load_model(config), digest)


def test_kv_of_rounded_weights_is_no_other_models() -> None:
    ways = [identity(quantize=quantize) for quantize in ("none", "int8", "int4")]
    assert len({*ways, identity("other weights")}) == 4
    assert identity(quantize="int8", max_rows=7) == ways[1]


def test_kv_in_fewer_bits_is_no_other_pools() -> None:
    options = RuntimeConfig(dtype="bfloat16")
    model = load_model(options)
    kinds = ("auto", "int8", "fp8_e4m3")
    found = [kv_identity(replace(options, kv_cache_dtype=kind), model, "weights") for kind in kinds]
    assert len(set(found)) == 3
