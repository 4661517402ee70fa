"""Frequencies of every scaling form, in its old and new spelling, against transformers' own."""

from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from branchwork.runtime.models.rope import Rotation, frequencies, read_rope

FORMS: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"factor": 2.5},
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 64},
    "yarn, mscale": {
        "factor": 4.0,
        "original_max_position_embeddings": 64,
        "mscale": 0.7,
        "mscale_all_dim": 0.9,
        "beta_fast": 16,
    },
}


def theirs(numbers: dict[str, Any]) -> tuple[torch.Tensor, float]:
    config = LlamaConfig(
        hidden_size=64,
        num_attention_heads=4,
        max_position_embeddings=256,
        rope_parameters={"rope_theta": 5000.0, **numbers},
    )
    module = LlamaRotaryEmbedding(config)
    return module.inv_freq, module.attention_scaling


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("spelling", ["rope_parameters", "rope_scaling", "type"])
def test_frequencies_equal_transformers(form: str, spelling: str) -> None:
    numbers = {**FORMS[form], "rope_type": form.split(",")[0]}
    wanted, scaling = theirs(numbers)
    if spelling == "rope_parameters":
        raw: dict[str, Any] = {"rope_parameters": {**numbers, "rope_theta": 5000.0}}
    else:
        kind = numbers.pop("rope_type")
        numbers["type" if spelling == "type" else "rope_type"] = kind
        raw = {"rope_theta": 5000.0, "rope_scaling": numbers}
    found, factor = frequencies(read_rope(raw, head_dim=16, max_position=256))
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=0)
    assert factor == pytest.approx(scaling)


def test_dynamic_rope_rotates_each_far_position_as_the_last_of_its_length() -> None:
    numbers = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 5000.0}
    rotation = Rotation(read_rope({"rope_parameters": numbers}, 16, 32), 64)
    rotation.fill(64)
    config = LlamaConfig(
        hidden_size=64,
        num_attention_heads=4,
        max_position_embeddings=32,
        rope_parameters=numbers,
    )
    for length in (1, 32, 33, 50, 64):
        # A fresh module each: it remembers the longest text it has seen.
        module = LlamaRotaryEmbedding(config)
        cos, sin = module(torch.zeros(1), torch.arange(length).unsqueeze(0))
        torch.testing.assert_close(rotation.cos[length - 1], cos[0, -1, :8], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(rotation.sin[length - 1], sin[0, -1, :8], rtol=1e-4, atol=1e-5)


def test_positions_are_the_same_bits_however_the_table_is_filled() -> None:
    rope = read_rope({"rope_theta": 5000.0}, 16, 4096)
    at_once, in_parts = Rotation(rope, 4096), Rotation(rope, 4096)
    at_once.fill(4096)
    for length in (3, 5, 2000, 2001, 4096):
        in_parts.fill(length)
    assert torch.equal(at_once.cos, in_parts.cos)
    assert torch.equal(at_once.sin, in_parts.sin)
