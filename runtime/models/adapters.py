"""Low-rank adapters (Hu et al. 2021) from folders in PEFT's format: adapter_config.json and adapter_model.safetensors.

What a folder asks for is computed in full or refused. The tensors that are there say which matrices are adapted.
"""

import hashlib
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from branchwork.kernels import api as kernels
from branchwork.runtime.models.config import ModelConfig
from branchwork.runtime.models.fields import count, flag, mapping, number
from branchwork.runtime.models.weights import TensorFile, read_json
from branchwork.runtime.wire.errors import ModelError

MAX_RANK = 128
"""A tile of the kernels holds all of a row's low-rank values."""

Number = TypeVar("Number", int, float)

_CONFIG, _TENSORS = "adapter_config.json", "adapter_model.safetensors"

_RANK_STEP = 8
"""Ranks are padded to a multiple: 16 bytes of the smallest type, which a GPU loads at once."""

# What a config may say beside what is read here: it describes the training, or is told by the tensors.
_OF_NO_EFFECT = {
    "auto_mapping", "base_model_name_or_path", "corda_config", "ensure_weight_tying", "eva_config", "exclude_modules",
    "fan_in_fan_out", "inference_mode", "layers_pattern", "layers_to_transform", "loftq_config", "lora_dropout",
    "megatron_core", "peft_version", "qalora_group_size", "revision", "runtime_config", "target_modules", "task_type",
}  # fmt: skip
_READ = {
    "alpha_pattern", "bias", "init_lora_weights", "lora_alpha", "peft_type", "r", "rank_pattern", "use_rslora",
}  # fmt: skip
# Others (PiSSA, OLoRA, LoftQ, CorDA) change the model's own weights too, and only training knows how.
_PLAIN_STARTS = (None, True, False, "gaussian", "eva", "orthogonal")

# A module of a layer: to which of the matrices that are applied together it belongs, and as which part.
_MODULES = {
    "self_attn.q_proj": ("qkv", 0),
    "self_attn.k_proj": ("qkv", 1),
    "self_attn.v_proj": ("qkv", 2),
    "self_attn.o_proj": ("out", 0),
    "mlp.gate_proj": ("gate_up", 0),
    "mlp.up_proj": ("gate_up", 1),
    "mlp.down_proj": ("down", 0),
}
_TENSOR = re.compile(
    r"base_model\.model\.model\.layers\.(\d{1,6})\.(self_attn|mlp)\.(\w{1,20})\.lora_(A|B)(?:\.default)?\.weight"
)


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """How an adapter scales what it adds: alpha / rank, or alpha / √rank (`root`: Kalajdzievski 2023).

    `ranks` and `alphas` hold for modules of that name, or whose name ends with it; the first that fits counts.
    """

    rank: int
    alpha: float
    root: bool
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]

    def rank_of(self, module: str) -> int:
        """Of a module by its full name."""
        return _first_that_fits(self.ranks, module, self.rank)

    def scaling_of(self, module: str) -> float:
        """What is added is multiplied with it."""
        rank = self.rank_of(module)
        alpha = _first_that_fits(self.alphas, module, self.alpha)
        return alpha / (math.sqrt(rank) if self.root else rank)


@dataclass(frozen=True, slots=True)
class Adapters:
    """Adapters in memory; adapter n of a segment is number n − 1 here.

    `digests[i]` is a sha256 over what adapter i computes with, weights and scaling: equal ones give equal K/V.
    """

    names: tuple[str, ...]
    digests: tuple[str, ...]
    weights: kernels.AdapterWeights


class _Module(NamedTuple):
    """One adapted matrix: its layer, its name in it, and the names of its two tensors."""

    layer: int
    name: str
    shrink: str
    expand: str

    @property
    def full_name(self) -> str:
        return f"model.layers.{self.layer}.{self.name}"


@dataclass(frozen=True, slots=True)
class AdapterFolder:
    """An adapter that was found to fit the model; its weights are still in its file."""

    name: str
    folder: Path
    config: AdapterConfig
    modules: tuple[_Module, ...]

    @property
    def rank(self) -> int:
        """The largest of its modules."""
        return max(self.config.rank_of(module.full_name) for module in self.modules)


def load_adapters(
    sources: Sequence[tuple[str, Path]],
    config: ModelConfig,
    dtype: torch.dtype,
    device: torch.device,
) -> Adapters:
    """The adapters of (name, folder), in their order. Raises ModelError, with what is not computed."""
    return placed_adapters(read_folders(sources, config), config, dtype, device)


def read_folders(
    sources: Iterable[tuple[str, Path]], config: ModelConfig
) -> tuple[AdapterFolder, ...]:
    """Find out what the adapters need, without reading their weights. Raises ModelError."""
    return tuple(_read_folder(name, folder, config) for name, folder in sources)


def adapter_bytes(folders: Sequence[AdapterFolder], config: ModelConfig, dtype: torch.dtype) -> int:
    """What the adapters take together."""
    rank, groups = _padded_rank(folders), _groups(folders)
    sizes = _sizes(config)
    weights = sum(
        rank * (len(sizes[g].outs) * sizes[g].width + sum(sizes[g].outs)) for _, g in groups
    )
    return len(folders) * weights * dtype.itemsize


def placed_adapters(
    folders: Sequence[AdapterFolder],
    config: ModelConfig,
    dtype: torch.dtype,
    device: torch.device,
) -> Adapters:
    """Read the weights and lay them side by side, with zeros where an adapter has less. Raises ModelError."""
    rank, sizes = _padded_rank(folders), _sizes(config)
    room = {
        (layer, group): kernels.LowRank(
            torch.zeros(len(folders), len(size.outs) * rank, size.width, dtype=dtype),
            torch.zeros(len(folders), sum(size.outs), rank, dtype=dtype),
            size.outs,
        )
        for layer, group in _groups(folders)
        if (size := sizes[group])
    }
    digests = []
    for i, one in enumerate(folders):
        digest = hashlib.sha256(str(dtype).encode())
        for module, shrink, expand in _read_weights(one, config, dtype):
            group, part = _MODULES[module.name]
            whole, first = room[module.layer, group], sum(sizes[group].outs[:part])
            whole.shrink[i, part * rank : part * rank + len(shrink)] = shrink
            whole.expand[i, first : first + len(expand), : expand.shape[1]] = expand
            digest.update(f"{module.full_name} {list(shrink.shape)} {list(expand.shape)}".encode())
            for tensor in (shrink, expand):
                digest.update(tensor.view(torch.uint8).numpy().data)
        digests.append(digest.hexdigest())
    layers = tuple(
        kernels.LayerAdapters(**{group: room.get((layer, group)) for group in sizes})
        for layer in range(config.num_layers)
    )
    weights = kernels.AdapterWeights(len(folders), rank, layers).on_device(device)
    return Adapters(tuple(one.name for one in folders), tuple(digests), weights)


def read_adapter_config(raw: Mapping[str, Any]) -> AdapterConfig:
    """From adapter_config.json. Raises ModelError with what is not supported, or not what it should be."""
    if raw.get("peft_type") != "LORA":
        raise ModelError(
            f"{_CONFIG}: peft_type {raw.get('peft_type')!r} is not supported (LORA is)"
        )
    if raw.get("use_dora"):
        raise ModelError(
            f"{_CONFIG}: use_dora: weight-decomposed adapters (DoRA) are not supported"
        )
    if raw.get("bias", "none") != "none":
        raise ModelError(f"{_CONFIG}: bias {raw['bias']!r} is not supported (none is)")
    if raw.get("modules_to_save"):
        raise ModelError(
            f"{_CONFIG}: modules_to_save: whole matrices of an adapter's own are not supported"
        )
    start = raw.get("init_lora_weights")
    if not isinstance(start, bool | str | None) or start not in _PLAIN_STARTS:
        raise ModelError(
            f"{_CONFIG}: init_lora_weights {start!r} changes the model's own weights, which is not supported; "
            "PEFT can convert the adapter to a plain one"
        )
    # Whatever else is asked for may change what is computed; what is off is left out by writing false, null or nothing.
    other = [key for key, value in raw.items() if value and key not in _READ | _OF_NO_EFFECT]
    if other:
        raise ModelError(f"{_CONFIG}: {str(other[0])[:40]} is not supported")
    ranks, alphas = mapping(raw, "rank_pattern", _CONFIG), mapping(raw, "alpha_pattern", _CONFIG)
    config = AdapterConfig(
        rank=count(raw, "r", file=_CONFIG),
        alpha=number(raw, "lora_alpha", file=_CONFIG),
        root=flag(raw, "use_rslora", _CONFIG),
        ranks={_module_name(key): count(ranks, key, file=_CONFIG) for key in ranks},
        alphas={_module_name(key): number(alphas, key, file=_CONFIG) for key in alphas},
    )
    largest = max(config.rank, *config.ranks.values()) if config.ranks else config.rank
    if largest > MAX_RANK:
        raise ModelError(f"{_CONFIG}: rank {largest} is more than is supported ({MAX_RANK})")
    return config


def _module_name(pattern: str) -> str:
    """The name that a pattern stands for: patterns of names only, since others could take for ever to match."""
    name = pattern.removeprefix("^").removesuffix("$").replace("\\.", ".")
    if not re.fullmatch(r"[\w.]{1,200}", name):
        raise ModelError(
            f"{_CONFIG}: {pattern[:80]!r} is no name of modules; other patterns are not supported"
        )
    return name


def _first_that_fits(values: Mapping[str, Number], module: str, default: Number) -> Number:
    fitting = (value for name, value in values.items() if f".{module}".endswith(f".{name}"))
    return next(fitting, default)


class _Size(NamedTuple):
    """Of matrices that are applied together: their inputs, and the outputs of each."""

    width: int
    outs: tuple[int, ...]


def _sizes(config: ModelConfig) -> dict[str, _Size]:
    hidden, width, dim = config.hidden_size, config.intermediate_size, config.head_dim
    q_width, kv_width = config.num_heads * dim, config.num_kv_heads * dim
    return {
        "qkv": _Size(hidden, (q_width, kv_width, kv_width)),
        "out": _Size(q_width, (hidden,)),
        "gate_up": _Size(hidden, (width, width)),
        "down": _Size(width, (hidden,)),
    }


def _padded_rank(folders: Sequence[AdapterFolder]) -> int:
    largest = max(one.rank for one in folders)
    return -(-largest // _RANK_STEP) * _RANK_STEP


def _groups(folders: Iterable[AdapterFolder]) -> list[tuple[int, str]]:
    """(layer, matrices that are applied together) that any of the adapters has a part of."""
    return sorted({(m.layer, _MODULES[m.name][0]) for one in folders for m in one.modules})


def _read_folder(name: str, folder: Path, config: ModelConfig) -> AdapterFolder:
    if not (folder / _CONFIG).is_file():
        raise ModelError(f"{folder} has no {_CONFIG}: it is not an adapter's folder")
    if not (folder / _TENSORS).is_file():
        pickled = any(folder.glob("*.bin"))
        why = " as pickle files, which could run code; convert them to safetensors"
        raise ModelError(
            f"{folder} has its weights{why}" if pickled else f"{folder} has no {_TENSORS}"
        )
    raw = read_json(folder / _CONFIG)
    try:
        read = read_adapter_config(raw)
    except ModelError as error:
        raise ModelError(f"{folder}: {error}") from error
    made_for = mapping(raw, "auto_mapping", _CONFIG).get("base_model_class")
    if made_for not in (None, config.architecture):
        raise ModelError(
            f"{folder}: made for {str(made_for)[:80]}, and the model is {config.architecture}"
        )
    with TensorFile(folder / _TENSORS) as tensors:
        modules = _modules(folder, tensors.names, config)
    if not modules:
        raise ModelError(f"{folder}: {_TENSORS} has no tensors")
    return AdapterFolder(name, folder, read, modules)


def _modules(folder: Path, names: Iterable[str], config: ModelConfig) -> tuple[_Module, ...]:
    """The adapted matrices by the names of tensors, in the order of layers. Raises ModelError."""
    found: dict[tuple[int, str], dict[str, str]] = {}
    for name in names:
        match = _TENSOR.fullmatch(name)
        if match is None or (module := f"{match[2]}.{match[3]}") not in _MODULES:
            raise ModelError(f"{folder}: {_why_no_place(name)}")
        layer = int(match[1])
        if layer >= config.num_layers:
            raise ModelError(f"{folder}: {name}: the model has {config.num_layers} layers")
        if config.experts is not None and config.experts.layers[layer] and match[2] == "mlp":
            raise ModelError(f"{folder}: {name}: layer {layer} of the model has experts instead")
        pair = found.setdefault((layer, module), {})
        if match[4] in pair:
            raise ModelError(f"{folder}: {pair[match[4]]} and {name} are the same matrix")
        pair[match[4]] = name
    for pair in found.values():
        if len(pair) == 1:
            raise ModelError(
                f"{folder}: {next(iter(pair.values()))} is alone; A and B belong together"
            )
    return tuple(
        _Module(layer, module, pair["A"], pair["B"])
        for (layer, module), pair in sorted(found.items())
    )


def _why_no_place(name: str) -> str:
    shown = name[:120]
    if "lora_magnitude_vector" in name:
        return f"{shown}: weight-decomposed adapters (DoRA) are not supported"
    if ".experts" in name or "block_sparse_moe" in name:
        return f"{shown}: adapters of a mixture's experts are not supported"
    if "embed" in name or "lm_head" in name:
        return f"{shown}: adapters of embeddings and head are not supported"
    return f"there is no place for tensor {shown}; adapted are {', '.join(_MODULES)} of layers"


def _read_weights(
    one: AdapterFolder, config: ModelConfig, dtype: torch.dtype
) -> Iterator[tuple[_Module, Tensor, Tensor]]:
    """A and scaled B of each module as they are computed with."""
    sizes = _sizes(config)
    with TensorFile(one.folder / _TENSORS) as tensors:
        for module in one.modules:
            group, part = _MODULES[module.name]
            rank = one.config.rank_of(module.full_name)
            scaling = one.config.scaling_of(module.full_name)
            shrink = tensors.read(module.shrink, rank, sizes[group].width)
            expand = tensors.read(module.expand, sizes[group].outs[part], rank)
            # Scaled before it is rounded.
            both = shrink.to(dtype).contiguous(), (expand.float() * scaling).to(dtype).contiguous()
            for tensor, stored in zip(both, (module.shrink, module.expand), strict=True):
                if not bool(tensor.isfinite().all()):
                    raise ModelError(f"{one.folder}: {stored} has values that are not finite")
            yield module, *both
