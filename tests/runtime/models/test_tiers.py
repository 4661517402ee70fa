"""Whose K/V a store holds."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.make_model import make_adapter, make_model

from branchwork.runtime.models.loader import load_model
from branchwork.runtime.models.tiers import kv_identities
from branchwork.runtime.wire.config import RuntimeConfig


def identity(digest: str = "weights", **options: Any) -> str:
    config = RuntimeConfig(dtype="bfloat16", **options)
    return kv_identities(config, load_model(config), digest)[0]


def test_kv_of_rounded_weights_is_no_other_models() -> None:
    ways = [identity(quantize=quantize) for quantize in ("none", "int8", "int4")]
    assert len({*ways, identity("other weights")}) == 4
    assert identity(quantize="int8", max_rows=7) == ways[1]


def test_kv_in_fewer_bits_is_no_other_pools() -> None:
    options = RuntimeConfig(dtype="bfloat16")
    model = load_model(options)
    kinds = ("auto", "int8", "fp8_e4m3")
    found = [
        kv_identities(replace(options, kv_cache_dtype=kind), model, "weights") for kind in kinds
    ]
    assert len(set(found)) == 3


def test_kv_of_an_adapter_is_known_by_what_is_in_it_and_not_by_its_name(tmp_path: Path) -> None:
    base = make_model(tmp_path / "model")
    one = make_adapter(tmp_path / "one", base, seed=1)
    other = make_adapter(tmp_path / "other", base, seed=2)

    def identities(**adapters: Path) -> tuple[str, ...]:
        pairs = tuple((name, str(folder)) for name, folder in adapters.items())
        options = RuntimeConfig(model=str(tmp_path / "model"), dtype="bfloat16", adapters=pairs)
        return kv_identities(options, load_model(options), "weights")

    (plain,) = identities()
    first = identities(a=one, b=other)
    assert len({*first}) == 3
    assert first[0] == plain
    assert identities(b=other, x=one) == (plain, first[2], first[1])
