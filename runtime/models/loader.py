"""From the name of a model to a decoder in memory."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from branchwork.kernels import api as kernels
from branchwork.runtime.config import RuntimeConfig
from branchwork.runtime.models.config import ModelConfig, read_config
from branchwork.runtime.models.decoder import Decoder, Layer
from branchwork.runtime.models.weights import Weights, checksum, read_json
from branchwork.runtime.wire.errors import ConfigError, ModelError

EMBEDDED = "sprout"
"""The name of the model that comes with the package."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to run. `checksum` tells it apart from others; `folder` also holds its tokenizer."""

    name: str
    folder: Path
    config: ModelConfig
    decoder: Decoder
    checksum: str


def load_model(options: RuntimeConfig) -> LoadedModel:
    """Load `options.model` on its device. Raises ModelError or ConfigError; never executes what a folder brings."""
    folder = model_folder(options.model)
    config = load_config(folder)
    dtype = _dtype(options.dtype, config)
    if options.device == "cuda":
        raise ConfigError("--device cuda: this version runs on the CPU")
    with Weights(folder) as weights, torch.inference_mode():
        decoder = _decoder(config, weights, dtype)
        unknown = [name for name in weights.left_over() if not name.endswith("rotary_emb.inv_freq")]
    if unknown:
        raise ModelError(f"{folder}: {config.architecture} has no place for tensor {unknown[0]}")
    return LoadedModel(options.model, folder, config, decoder, checksum(folder))


def load_config(folder: Path) -> ModelConfig:
    """The shape of the model in a folder. Raises ModelError."""
    generation = folder / "generation_config.json"
    return read_config(
        read_json(folder / "config.json"), read_json(generation) if generation.is_file() else {}
    )


def model_folder(name: str) -> Path:
    """The folder that a model's name stands for: the embedded model, a local folder, or a name on the hub.

    Raises ModelError where there is none. Only hub names touch the network, and only for files that are data.
    """
    folder = Path(__file__).parent / "sprout" if name == EMBEDDED else Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelError(f"{folder} has no config.json: it is not a model folder")
        return folder
    if name == EMBEDDED or name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise ModelError(f"{name}: there is no such model folder")
    return _download(name)


def _download(name: str) -> Path:
    # Half a second to import, and only for models that are not on this machine by path.
    from huggingface_hub import snapshot_download  # noqa: PLC0415

    try:
        patterns = ["*.json", "*.safetensors", "*.jinja"]
        return Path(snapshot_download(name, allow_patterns=patterns))
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"{name} is no local folder and cannot be fetched: {reason}") from error


def _dtype(choice: str, config: ModelConfig) -> torch.dtype:
    """The type to compute in: the stored one, but 32 bits where the CPU has no 16-bit products."""
    if choice == "auto":
        fast = torch.ops.mkldnn._is_mkldnn_bf16_supported()
        choice = "bfloat16" if config.dtype in ("bfloat16", "float16") and fast else "float32"
    return torch.bfloat16 if choice == "bfloat16" else torch.float32


def _decoder(config: ModelConfig, weights: Weights, dtype: torch.dtype) -> Decoder:
    def take(name: str, *shape: int) -> Tensor:
        return weights.take(name, *shape).to(dtype)

    hidden, vocab = config.hidden_size, config.vocab_size
    embedding = take("model.embed_tokens.weight", vocab, hidden)
    layers = tuple(_layer(config, take, f"model.layers.{i}") for i in range(config.num_layers))
    final_norm = take("model.norm.weight", hidden)
    if config.tied_embeddings:
        head = embedding
        if "lm_head.weight" in weights:
            weights.take("lm_head.weight", vocab, hidden)
    else:
        head = take("lm_head.weight", vocab, hidden)
    return Decoder(config, embedding, layers, final_norm, kernels.pack_linear(head))


def _layer(config: ModelConfig, take: Callable[..., Tensor], prefix: str) -> Layer:
    hidden, width, dim = config.hidden_size, config.intermediate_size, config.head_dim
    q_width, kv_width = config.num_heads * dim, config.num_kv_heads * dim

    def pack(parts: dict[str, int], in_features: int, has_bias: bool) -> kernels.PackedLinear:
        names = {f"{prefix}.{name}": rows for name, rows in parts.items()}
        weight = torch.cat([take(f"{name}.weight", n, in_features) for name, n in names.items()])
        biases = [take(f"{name}.bias", n) for name, n in names.items()] if has_bias else []
        return kernels.pack_linear(weight, torch.cat(biases) if biases else None)

    qkv = {"self_attn.q_proj": q_width, "self_attn.k_proj": kv_width, "self_attn.v_proj": kv_width}
    return Layer(
        attention_norm=take(f"{prefix}.input_layernorm.weight", hidden),
        qkv=pack(qkv, hidden, config.qkv_bias),
        q_norm=take(f"{prefix}.self_attn.q_norm.weight", dim) if config.qk_norm else None,
        k_norm=take(f"{prefix}.self_attn.k_norm.weight", dim) if config.qk_norm else None,
        out=pack({"self_attn.o_proj": hidden}, q_width, config.out_bias),
        mlp_norm=take(f"{prefix}.post_attention_layernorm.weight", hidden),
        gate_up=pack({"mlp.gate_proj": width, "mlp.up_proj": width}, hidden, config.mlp_bias),
        down=pack({"mlp.down_proj": hidden}, width, config.mlp_bias),
    )
