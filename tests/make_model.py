"""Random-weight model folders for tests, written by transformers as a user's folder would be."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from branchwork.bench.random_model import write_adapter

TINY = {
    "vocab_size": 130,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "eos_token_id": None,
    "bos_token_id": None,
    "pad_token_id": None,
}


def make_model(
    folder: Path, family: str = "llama", seed: int = 0, shard_size: str = "1GB", **changes: Any
) -> PreTrainedModel:
    """Write a small model of `family` with random weights to `folder`; returns transformers' own form of it."""
    config = AutoConfig.for_model(family, **{**TINY, **changes})
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config).to(torch.float32).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Larger than the usual 0.02, so that the next token depends on every part of the model.
            parameter.normal_(1.0 if name.endswith("norm.weight") else 0.0, 0.15)
    model.save_pretrained(folder, max_shard_size=shard_size)
    return model


ADAPTED = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def make_adapter(
    folder: Path,
    model: PreTrainedModel,
    rank: int = 4,
    seed: int = 0,
    targets: Sequence[str] = ADAPTED,
    **changes: Any,
) -> Path:
    """Write a low-rank adapter of `model` with random weights to `folder`, in PEFT's format; returns `folder`.

    `changes` are of its adapter_config.json; a value of None takes a key out.
    """
    matrices = {
        name: (module.in_features, module.out_features)
        for name, module in model.named_modules()
        if name.split(".")[-1] in targets and isinstance(module, torch.nn.Linear)
    }
    usual = {"target_modules": list(targets), "bias": "none", "init_lora_weights": True}
    return write_adapter(folder, matrices, rank, seed, **{**usual, **changes})
