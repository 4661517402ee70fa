"""Whose K/V a store holds."""

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
