"""A model on a device has its matrices once: joined, or rounded."""

import pytest
import torch

from branchwork.bench.random_model import model_config, random_model
from branchwork.kernels.quantized import Quantize
from branchwork.runtime.models.free_memory import weight_bytes
from branchwork.runtime.models.placing import placed

CONFIG = model_config(3, 128, 256, 4, 2, 32, 300, 64, qk_norm=True)


@pytest.mark.parametrize("quantize", ["int8", "int4"])
def test_a_rounded_model_takes_what_is_said_of_it_and_keeps_nothing_of_what_was_stored(
    quantize: Quantize,
) -> None:
    made = random_model(CONFIG, torch.bfloat16, "cpu").decoder
    there = placed(made, torch.device("cpu"), quantize)
    layers = there.weights.layers
    assert all(not layer.qkv and not layer.gate_up for layer in layers)
    assert not any(layer.out.numel() + layer.down.numel() for layer in layers)
    said = weight_bytes(CONFIG, 0, torch.bfloat16, quantize)
    # Scales of whole outputs are not counted: a float32 each, of head and layers or of the head alone.
    per_layer = 4 * 32 + 2 * 2 * 32 + 128 + 2 * 256 + 128
    outputs = 300 + (3 * per_layer if quantize == "int8" else 0)
    assert there.matrix_bytes + there.weights.embedding.nbytes == said + 4 * outputs
    assert there.matrix_bytes < made.matrix_bytes * (0.6 if quantize == "int8" else 0.4)


def test_a_model_as_it_was_stored_has_its_matrices_joined() -> None:
    made = random_model(CONFIG, torch.bfloat16, "cpu").decoder
    there = placed(made, torch.device("cpu"))
    assert there.matrix_bytes == made.matrix_bytes
    assert [len(layer.qkv) for layer in there.weights.layers] == [1, 1, 1]
