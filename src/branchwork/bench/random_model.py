"""Models and adapters of random weights: what a step costs does not depend on what it says."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from branchwork.kernels.api import DecoderWeights, ExpertWeights, LayerWeights
from branchwork.runtime.models.config import ExpertsConfig, ModelConfig
from branchwork.runtime.models.decoder import Decoder
from branchwork.runtime.models.loader import LoadedModel
from branchwork.runtime.models.rope import RopeConfig


def model_config(
    layers: int,
    hidden: int,
    width: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    vocab: int,
    max_position: int,
    qk_norm: bool = False,
    window: int = 0,
    experts: ExpertsConfig | None = None,
) -> ModelConfig:
    """A Llama of these sizes, with norms on q and k, windows or experts if asked for."""
    return ModelConfig(
        architecture="LlamaForCausalLM",
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=width,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        rms_norm_eps=1e-5,
        rope=RopeConfig("default", 500_000.0, head_dim, max_position, {}),
        max_position=max_position,
        tied_embeddings=False,
        qkv_bias=False,
        out_bias=False,
        mlp_bias=False,
        qk_norm=qk_norm,
        windows=(window,) * layers,
        eos_token_ids=(),
        dtype="bfloat16",
        experts=experts,
    )


LLAMA_8B = model_config(32, 4096, 14_336, 32, 8, 128, 128_256, 8192 + 1024)
"""The sizes of Llama-3-8B."""


def random_model(
    config: ModelConfig, dtype: torch.dtype, device: str, std: float = 0.02, seed: int = 0
) -> LoadedModel:
    """Matrices drawn from a normal distribution of `std`, norms around 1; q, k and v joined, and gate and up."""
    generator = torch.Generator(device).manual_seed(seed)

    def draw(*shape: int, mean: float = 0.0) -> Tensor:
        drawn = torch.empty(shape, dtype=dtype, device=device)
        return drawn.normal_(mean, std, generator=generator)

    hidden, width, dim = config.hidden_size, config.intermediate_size, config.head_dim
    q_width, kv_width = config.num_heads * dim, config.num_kv_heads * dim

    def drawn_experts(shape: ExpertsConfig) -> ExpertWeights:
        return ExpertWeights(
            draw(shape.number, hidden),
            draw(shape.number, 2 * shape.width, hidden),
            draw(shape.number, hidden, shape.width),
            shape.choices,
            shape.normalised,
        )

    def layer(index: int) -> LayerWeights:
        mixed = config.experts is not None and config.experts.layers[index]
        return LayerWeights(
            attention_norm=draw(hidden, mean=1.0),
            qkv=(draw(q_width, hidden), draw(kv_width, hidden), draw(kv_width, hidden)),
            qkv_bias=None,
            q_norm=draw(dim, mean=1.0) if config.qk_norm else None,
            k_norm=draw(dim, mean=1.0) if config.qk_norm else None,
            out=draw(hidden, q_width),
            out_bias=None,
            mlp_norm=draw(hidden, mean=1.0),
            gate_up=() if mixed else (draw(width, hidden), draw(width, hidden)),
            gate_up_bias=None,
            down=draw(0) if mixed else draw(hidden, width),
            down_bias=None,
            window=config.windows[index],
            experts=drawn_experts(config.experts) if mixed and config.experts else None,
        )

    weights = DecoderWeights(
        embedding=draw(config.vocab_size, hidden),
        layers=tuple(layer(index) for index in range(config.num_layers)),
        final_norm=draw(hidden, mean=1.0),
        head=draw(config.vocab_size, hidden),
        num_heads=config.num_heads,
        num_kv_heads=config.num_kv_heads,
        head_dim=dim,
        eps=config.rms_norm_eps,
    )
    return LoadedModel("random", Path(), config, Decoder(config, weights), "")


def write_adapter(
    folder: Path, matrices: Mapping[str, tuple[int, int]], rank: int, seed: int, **changes: Any
) -> Path:
    """Write a low-rank adapter to `folder`, in PEFT's format; returns `folder`.

    `matrices` are the inputs and outputs of what it changes, by their names in the model. `changes` are of its
    adapter_config.json; a value of None takes a key out.
    """
    random = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, (inputs, outputs) in matrices.items():
        a = torch.randn(rank, inputs, generator=random) * inputs**-0.5
        b = torch.randn(outputs, rank, generator=random) * 0.3
        tensors[f"base_model.model.{name}.lora_A.weight"] = a
        tensors[f"base_model.model.{name}.lora_B.weight"] = b
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": 2 * rank}
    said = {key: value for key, value in {**config, **changes}.items() if value is not None}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(said))
    return folder
