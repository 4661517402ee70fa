"""What a model is, read from the config.json of a Hugging Face folder into plain typed values."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from branchwork.runtime.models.fields import count, number
from branchwork.runtime.models.rope import RopeConfig, read_rope
from branchwork.runtime.wire.errors import ModelError

ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "MixtralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "Qwen3MoeForCausalLM": "qwen3",
}
"""The architectures that `decoder` can run, and the family that decides their details."""


MAX_EXPERTS = 1024
"""A block of threads looks at all of a token's scores at once."""


@dataclass(frozen=True, slots=True)
class ExpertsConfig:
    """A mixture of experts: each token goes to `choices` of `number`, each of this `width`.

    `normalised`: the weights of a token's experts sum to 1. `layers[i]`: whether layer i has them.
    """

    number: int
    choices: int
    width: int
    normalised: bool
    layers: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The shape of a decoder of the Llama family.

    `windows[i]` is how many positions layer i looks back over, its own included; 0: all of them.
    `dtype` is the one of the stored weights as config.json names it.
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    rope: RopeConfig
    max_position: int
    tied_embeddings: bool
    qkv_bias: bool
    out_bias: bool
    mlp_bias: bool
    qk_norm: bool
    windows: tuple[int, ...]
    eos_token_ids: tuple[int, ...]
    dtype: str
    experts: ExpertsConfig | None = None

    @property
    def num_layer_weights(self) -> int:
        """Of the linear layers, without the head; of a model without experts."""
        heads = self.num_heads + self.num_kv_heads
        attention = 2 * heads * self.head_dim * self.hidden_size
        return self.num_layers * (attention + 3 * self.intermediate_size * self.hidden_size)

    @property
    def num_embedding_weights(self) -> int:
        """Of the embedding; of the head as many again."""
        return self.vocab_size * self.hidden_size

    def kv_bytes_per_slot(self, itemsize: int, scale_bytes: int = 0) -> int:
        """Memory of one token's K and V in every layer, with a scale for each head where they are quantised."""
        return 2 * self.num_layers * self.num_kv_heads * (self.head_dim * itemsize + scale_bytes)


def read_config(raw: Mapping[str, Any], generation: Mapping[str, Any]) -> ModelConfig:
    """Build the ModelConfig from config.json and generation_config.json (empty where there is none).

    Raises ModelError where the folder needs code of its own, is of an unknown architecture, or where a value
    is missing, of the wrong type, or one this decoder does not implement.
    """
    architecture = _architecture(raw)
    family = ARCHITECTURES[architecture]
    if raw.get("hidden_act", "silu") != "silu":
        raise ModelError(
            f"config.json: hidden_act {raw['hidden_act']!r} is not supported (silu is)"
        )
    if raw.get("quantization_config"):
        raise ModelError(
            "config.json: quantization_config: quantised checkpoints are not supported"
        )
    hidden_size, num_heads = count(raw, "hidden_size"), count(raw, "num_attention_heads")
    num_kv_heads = count(raw, "num_key_value_heads", num_heads)
    head_dim = count(
        raw, "head_dim", 128 if architecture == "Qwen3ForCausalLM" else hidden_size // num_heads
    )
    if head_dim % 2 or head_dim < 4:
        raise ModelError(f"config.json: head_dim must be even and at least 4, found {head_dim}")
    if num_heads % num_kv_heads:
        raise ModelError(
            f"config.json: {num_heads} attention heads cannot share {num_kv_heads} key/value heads"
        )
    num_layers, max_position = (
        count(raw, "num_hidden_layers"),
        count(raw, "max_position_embeddings"),
    )
    attention_bias = bool(raw.get("attention_bias", False))
    return ModelConfig(
        architecture=architecture,
        vocab_size=count(raw, "vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=count(raw, "intermediate_size"),
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        rms_norm_eps=number(raw, "rms_norm_eps", 1e-6),
        rope=read_rope(raw, head_dim, max_position),
        max_position=max_position,
        tied_embeddings=bool(raw.get("tie_word_embeddings", False)),
        qkv_bias=family == "qwen2" or (family in ("llama", "qwen3") and attention_bias),
        out_bias=family in ("llama", "qwen3") and attention_bias,
        mlp_bias=family == "llama" and bool(raw.get("mlp_bias", False)),
        qk_norm=family == "qwen3",
        windows=_windows(raw, family, num_layers),
        eos_token_ids=_eos_ids(generation.get("eos_token_id", raw.get("eos_token_id"))),
        dtype=str(raw.get("dtype") or raw.get("torch_dtype") or "float32"),
        experts=_experts(raw, architecture, num_layers),
    )


def _experts(raw: Mapping[str, Any], architecture: str, num_layers: int) -> ExpertsConfig | None:
    """The mixture of experts of the architectures that have one."""
    if architecture == "MixtralForCausalLM":
        width, normalised, layers = count(raw, "intermediate_size"), True, (True,) * num_layers
    elif architecture == "Qwen3MoeForCausalLM":
        if raw.get("use_sliding_window", False):
            raise ModelError("config.json: use_sliding_window is not supported with experts")
        width, normalised = count(raw, "moe_intermediate_size"), bool(raw.get("norm_topk_prob"))
        step, dense = count(raw, "decoder_sparse_step", 1), raw.get("mlp_only_layers") or []
        if not isinstance(dense, list) or not all(type(layer) is int for layer in dense):
            raise ModelError(
                f"config.json: mlp_only_layers must be numbers of layers, found {dense!r}"
            )
        layers = tuple(i not in dense and (i + 1) % step == 0 for i in range(num_layers))
    else:
        return None
    name = "num_experts" if "num_experts" in raw else "num_local_experts"
    number, choices = count(raw, name), count(raw, "num_experts_per_tok")
    if choices > number or number > MAX_EXPERTS:
        raise ModelError(
            f"config.json: {choices} of {number} experts a token; at most {MAX_EXPERTS} are supported, and all of them"
        )
    return ExpertsConfig(number, choices, width, normalised, layers)


def _architecture(raw: Mapping[str, Any]) -> str:
    if raw.get("auto_map") or raw.get("trust_remote_code"):
        raise ModelError(
            "config.json: auto_map: the model brings Python code of its own, which is never executed"
        )
    names = raw.get("architectures") or []
    if not isinstance(names, list) or len(names) != 1 or names[0] not in list(ARCHITECTURES):
        known = ", ".join(ARCHITECTURES)
        raise ModelError(
            f"config.json: architectures {names!r} is not supported; known are {known}"
        )
    return str(names[0])


def _windows(raw: Mapping[str, Any], family: str, num_layers: int) -> tuple[int, ...]:
    """The sliding window of each layer, from `layer_types` or the older keys of each family."""
    window = raw.get("sliding_window")
    if family == "llama" or window is None:
        return (0,) * num_layers
    if family in ("qwen2", "qwen3") and not raw.get("use_sliding_window", False):
        return (0,) * num_layers
    window = count(raw, "sliding_window")
    kinds = raw.get("layer_types")
    if kinds is None:
        first = (
            0
            if family == "mistral"
            else count({"max_window_layers": 28, **raw}, "max_window_layers")
        )
        return tuple(window if i >= first else 0 for i in range(num_layers))
    known = {"full_attention": 0, "sliding_attention": window}
    if (
        not isinstance(kinds, list)
        or len(kinds) != num_layers
        or any(k not in list(known) for k in kinds)
    ):
        raise ModelError(
            f"config.json: layer_types must name full_attention or sliding_attention for {num_layers} layers"
        )
    return tuple(known[kind] for kind in kinds)


def _eos_ids(value: Any) -> tuple[int, ...]:
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(type(token) is int and token >= 0 for token in ids):
        raise ModelError(f"eos_token_id must be token ids, found {value!r}")
    return tuple(ids)
