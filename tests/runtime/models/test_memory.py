"""The size of the KV pool: as asked, or as much as is useful and fits."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from branchwork.runtime.models import free_memory, memory
from branchwork.runtime.models.free_memory import available_bytes, check_fits, weight_bytes
from branchwork.runtime.models.loader import LoadedModel, load_config, model_folder
from branchwork.runtime.models.memory import kv_slots_for
from branchwork.runtime.models.weights import weight_files
from branchwork.runtime.wire.config import RuntimeConfig
from branchwork.runtime.wire.errors import ConfigError

KIB, MIB = 1 << 10, 1 << 20


def slots(monkeypatch: pytest.MonkeyPatch, free: int, max_len: int = 100, **options: Any) -> int:
    """Slots of 1 KiB each, with `free` bytes on the machine."""
    monkeypatch.setattr(memory, "available_bytes", lambda device: free)
    model = SimpleNamespace(
        decoder=SimpleNamespace(dtype=torch.bfloat16, device=torch.device("cpu")),
        config=SimpleNamespace(kv_bytes_per_slot=lambda itemsize: KIB * itemsize // 2),
    )
    return kv_slots_for(RuntimeConfig(**options), cast(LoadedModel, model), max_len)


def test_the_pool_holds_every_row_at_its_longest_where_memory_allows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert slots(monkeypatch, free=1 << 40, max_len=100, max_rows=8) == 800


def test_else_it_takes_half_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    assert slots(monkeypatch, free=MIB, max_len=4096, max_rows=8) == 512


def test_a_number_of_slots_or_mebibytes_is_taken_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert slots(monkeypatch, free=MIB, kv_slots=700) == 700
    assert slots(monkeypatch, free=4 * MIB, kv_memory=3) == 3072


def test_more_than_there_is_names_both_numbers_and_the_option(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ConfigError, match=r"--kv-slots 2000: .* at most --kv-slots 1024"):
        slots(monkeypatch, free=MIB, kv_slots=2000)
    with pytest.raises(
        ConfigError, match=r"--kv-memory 3: .* has 0.0 GiB free.* at most --kv-memory 1"
    ):
        slots(monkeypatch, free=MIB, kv_memory=3)


def test_a_pool_too_small_to_use_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="at least 64 are needed"):
        slots(monkeypatch, free=100 * KIB)


def test_weights_that_do_not_fit_are_refused_before_they_are_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(free_memory, "available_bytes", lambda device: 8 << 30)
    check_fits("m", 8 << 30, torch.bfloat16, torch.device("cpu"))
    with pytest.raises(
        ConfigError, match=r"--model m: its weights take 16.0 GiB as bfloat16 .* 8.0"
    ):
        check_fits("m", 16 << 30, torch.bfloat16, torch.device("cpu"))
    with pytest.raises(ConfigError, match="--dtype bfloat16"):
        check_fits("m", 16 << 30, torch.float32, torch.device("cpu"))
    with pytest.raises(ConfigError, match="--quantize int8"):
        check_fits("m", 16 << 30, torch.bfloat16, torch.device("cpu"))
    with pytest.raises(ConfigError, match="as int4"):
        check_fits("m", 16 << 30, torch.bfloat16, torch.device("cpu"), "int4")


def test_rounded_weights_are_counted_as_what_they_take() -> None:
    shape = load_config(model_folder("sprout"))
    layers, embedding = shape.num_layer_weights, shape.num_embedding_weights
    stored = sum(path.stat().st_size for path in weight_files(model_folder("sprout")))
    assert 2 * (layers + embedding) < stored < 2 * (layers + embedding) + 32_768
    kind = torch.bfloat16
    assert weight_bytes(shape, stored, kind, "none") == stored
    assert weight_bytes(shape, stored, torch.float32, "none") == 2 * stored
    assert weight_bytes(shape, stored, kind, "int8") == layers + 3 * embedding
    assert weight_bytes(shape, stored, kind, "int4") == layers * 17 // 32 + 3 * embedding


def test_this_machine_has_memory() -> None:
    assert available_bytes() > MIB
