"""From the name of a model to a decoder in memory."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from branchwork.kernels import api as kernels
from branchwork.runtime.models.adapters import (
    Adapters,
    adapter_bytes,
    placed_adapters,
    read_folders,
)
from branchwork.runtime.models.config import ExpertsConfig, ModelConfig, read_config
from branchwork.runtime.models.decoder import Decoder
from branchwork.runtime.models.free_memory import check_fits, weight_bytes
from branchwork.runtime.models.placement import check_kv_cache_dtype, device_for
from branchwork.runtime.models.placing import placed
from branchwork.runtime.models.weights import Weights, checksum, read_json, weight_files
from branchwork.runtime.wire.config import RuntimeConfig
from branchwork.runtime.wire.errors import ConfigError, ModelError

EMBEDDED = "sprout"
"""The name of the model that comes with the package."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to run. `checksum` tells it apart from others; `folder` also holds its tokenizer.

    `quantize` is what its matrices are rounded to: on a device they are, on the CPU the decoder has them as they were
    stored, and whoever runs it rounds them. `adapters` are those of the decoder.
    """

    name: str
    folder: Path
    config: ModelConfig
    decoder: Decoder
    checksum: str
    quantize: kernels.Quantize = "none"
    adapters: Adapters | None = None


def load_model(options: RuntimeConfig) -> LoadedModel:
    """Load `options.model` on its device. Raises ModelError or ConfigError; never executes what a folder brings."""
    folder = model_folder(options.model)
    config = load_config(folder)
    device = device_for(options.device, config)
    dtype = compute_dtype(options.dtype, config, device)
    check_quantize(options.quantize, dtype, config)
    check_kv_cache_dtype(options.kv_cache_dtype, device)
    num_bytes = weight_bytes(config, stored_bytes(folder), dtype, options.quantize)
    sources = [(name, Path(there).expanduser()) for name, there in options.adapters]
    adapted = read_folders(sources, config)
    if adapted:
        num_bytes += adapter_bytes(adapted, config, dtype)
    check_fits(options.model, num_bytes, dtype, device, options.quantize, len(adapted))
    with Weights(folder) as weights, torch.inference_mode():
        plain = _weights(config, weights, dtype)
        decoder = Decoder(config, plain)
        if device.type != "cpu":
            decoder = placed(decoder, device, options.quantize)
        unknown = [name for name in weights.left_over() if not name.endswith("rotary_emb.inv_freq")]
    if unknown:
        raise ModelError(f"{folder}: {config.architecture} has no place for tensor {unknown[0]}")
    on_cpu = options.quantize != "none" and device.type == "cpu"
    if on_cpu and not kernels.runs_compiled(plain, options.quantize):
        raise ConfigError(
            f"--quantize {options.quantize}: {options.model} has layers of odd widths; --quantize none runs it"
        )
    adapters = placed_adapters(adapted, config, dtype, device) if adapted else None
    if adapters is not None:
        decoder = decoder.with_adapters(adapters.weights)
    return LoadedModel(
        options.model, folder, config, decoder, checksum(folder), options.quantize, adapters
    )


def on_device(model: LoadedModel, name: str) -> LoadedModel:
    """The model with its weights laid out on a device, and rounded as `model.quantize` says."""
    decoder, adapters = placed(model.decoder, torch.device(name), model.quantize), model.adapters
    if adapters is not None and decoder.adapters is not None:
        adapters = replace(adapters, weights=decoder.adapters)
    return replace(model, decoder=decoder, adapters=adapters)


def check_quantize(quantize: kernels.Quantize, dtype: torch.dtype, config: ModelConfig) -> None:
    """Raises ConfigError, with what is possible instead, where --quantize cannot be had."""
    if quantize != "none" and config.experts is not None:
        raise ConfigError(
            f"--quantize {quantize}: the model is a mixture of experts, which are not rounded; --quantize none runs it"
        )
    if quantize != "none" and dtype is not torch.bfloat16:
        raise ConfigError(
            f"--quantize {quantize}: computes in bfloat16, and the model would run in float32: "
            "--dtype bfloat16, or --quantize none"
        )


def stored_bytes(folder: Path) -> int:
    """Of a folder's weights."""
    return sum(path.stat().st_size for path in weight_files(folder))


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


def compute_dtype(choice: str, config: ModelConfig, device: torch.device) -> torch.dtype:
    """The type to compute in: the stored one, but 32 bits where the CPU has no 16-bit products."""
    if choice == "auto":
        fast = device.type != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
        choice = "bfloat16" if config.dtype in ("bfloat16", "float16") and fast else "float32"
    return torch.bfloat16 if choice == "bfloat16" else torch.float32


def _weights(config: ModelConfig, weights: Weights, dtype: torch.dtype) -> kernels.DecoderWeights:
    def take(name: str, *shape: int) -> Tensor:
        return weights.take(name, *shape).to(dtype)

    hidden, vocab = config.hidden_size, config.vocab_size
    embedding = take("model.embed_tokens.weight", vocab, hidden)
    head = embedding
    if not config.tied_embeddings:
        head = take("lm_head.weight", vocab, hidden)
    elif "lm_head.weight" in weights:
        weights.take("lm_head.weight", vocab, hidden)
    return kernels.DecoderWeights(
        embedding=embedding,
        layers=tuple(_layer(config, take, i) for i in range(config.num_layers)),
        final_norm=take("model.norm.weight", hidden),
        head=head,
        num_heads=config.num_heads,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        eps=config.rms_norm_eps,
    )


def _layer(config: ModelConfig, take: Callable[..., Tensor], index: int) -> kernels.LayerWeights:
    hidden, width, dim = config.hidden_size, config.intermediate_size, config.head_dim
    q_width, kv_width = config.num_heads * dim, config.num_kv_heads * dim
    prefix = f"model.layers.{index}"

    def matrix(name: str, rows: int, columns: int) -> Tensor:
        return take(f"{prefix}.{name}.weight", rows, columns)

    def bias(exists: bool, **rows: int) -> Tensor | None:
        if not exists:
            return None
        return torch.cat([take(f"{prefix}.{name}.bias", n) for name, n in rows.items()])

    gate_up: tuple[Tensor, ...] = ()
    down, experts = torch.empty(0), None
    if config.experts is not None and config.experts.layers[index]:
        experts = _experts(config, config.experts, take, prefix)
    else:
        gate_up = matrix("mlp.gate_proj", width, hidden), matrix("mlp.up_proj", width, hidden)
        down = matrix("mlp.down_proj", hidden, width)
    qkv = {"self_attn.q_proj": q_width, "self_attn.k_proj": kv_width, "self_attn.v_proj": kv_width}
    q, k, v = (matrix(name, rows, hidden) for name, rows in qkv.items())
    return kernels.LayerWeights(
        attention_norm=take(f"{prefix}.input_layernorm.weight", hidden),
        qkv=(q, k, v),
        qkv_bias=bias(config.qkv_bias, **qkv),
        q_norm=take(f"{prefix}.self_attn.q_norm.weight", dim) if config.qk_norm else None,
        k_norm=take(f"{prefix}.self_attn.k_norm.weight", dim) if config.qk_norm else None,
        out=matrix("self_attn.o_proj", hidden, q_width),
        out_bias=bias(config.out_bias, **{"self_attn.o_proj": hidden}),
        mlp_norm=take(f"{prefix}.post_attention_layernorm.weight", hidden),
        gate_up=gate_up,
        gate_up_bias=bias(config.mlp_bias, **{"mlp.gate_proj": width, "mlp.up_proj": width}),
        down=down,
        down_bias=bias(config.mlp_bias, **{"mlp.down_proj": hidden}),
        window=config.windows[index],
        experts=experts,
    )


def _experts(
    config: ModelConfig, experts: ExpertsConfig, take: Callable[..., Tensor], prefix: str
) -> kernels.ExpertWeights:
    """A layer's experts, one behind the other, and so copied."""
    mixtral = config.architecture == "MixtralForCausalLM"
    block = "block_sparse_moe" if mixtral else "mlp"
    names = ("w1", "w3", "w2") if mixtral else ("gate_proj", "up_proj", "down_proj")
    hidden, width = config.hidden_size, experts.width
    router = take(f"{prefix}.{block}.gate.weight", experts.number, hidden)
    gate_up, down = [], []
    for number in range(experts.number):
        gate, up, back = (f"{prefix}.{block}.experts.{number}.{name}.weight" for name in names)
        gate_up.append(torch.cat((take(gate, width, hidden), take(up, width, hidden))))
        down.append(take(back, hidden, width))
    return kernels.ExpertWeights(
        router, torch.stack(gate_up), torch.stack(down), experts.choices, experts.normalised
    )
