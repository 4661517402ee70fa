"""A folder's config.json becomes a ModelConfig, or a ModelError: nothing else."""

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from branchwork.runtime.models.config import ExpertsConfig, ModelConfig, read_config
from branchwork.runtime.models.rope import frequencies
from branchwork.runtime.wire.errors import ModelError

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 130,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}


def read(family: str = "Llama", **changes: Any) -> ModelConfig:
    return read_config({**LLAMA, "architectures": [f"{family}ForCausalLM"], **changes}, {})


def test_defaults_are_those_of_the_family() -> None:
    config = read()
    assert (config.head_dim, config.num_kv_heads, config.rms_norm_eps) == (8, 2, 1e-6)
    assert config.kv_bytes_per_slot(itemsize=2) == 2 * 3 * 2 * 8 * 2
    assert read("Qwen3").head_dim == 128
    assert read("Qwen2").qkv_bias
    assert not read("Mistral").qkv_bias
    assert read("Llama", num_key_value_heads=None).num_kv_heads == 4


@pytest.mark.parametrize(
    ("family", "changes", "windows"),
    [
        ("Llama", {"sliding_window": 8}, (0, 0, 0)),
        ("Mistral", {"sliding_window": 8}, (8, 8, 8)),
        ("Mistral", {"sliding_window": None}, (0, 0, 0)),
        ("Qwen2", {"sliding_window": 8}, (0, 0, 0)),
        (
            "Qwen2",
            {"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 2},
            (0, 0, 8),
        ),
        (
            "Qwen3",
            {
                "sliding_window": 8,
                "use_sliding_window": True,
                "layer_types": ["full_attention", "sliding_attention", "full_attention"],
            },
            (0, 8, 0),
        ),
    ],
)
def test_windows_are_read_in_the_keys_of_each_family(
    family: str, changes: dict[str, Any], windows: tuple[int, ...]
) -> None:
    assert read(family, **changes).windows == windows


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "architectures"),
        ({"architectures": "LlamaForCausalLM"}, "architectures"),
        ({"architectures": [["LlamaForCausalLM"]]}, "architectures"),
        ({"auto_map": {"AutoModel": "code.py"}}, "never executed"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"vocab_size": "130"}, "vocab_size must be a positive integer, found '130'"),
        ({"vocab_size": True}, "vocab_size"),
        ({"num_hidden_layers": 0}, "num_hidden_layers"),
        ({"num_attention_heads": 3}, "cannot share"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps must be a positive number, found 'small'"),
        ({"rms_norm_eps": 10**400}, "rms_norm_eps must be a positive number"),
        ({"rope_theta": [1]}, "rope_theta must be a positive number"),
        ({"rope_scaling": ["linear"]}, "rope_scaling must be an object"),
        ({"rope_scaling": {"type": "linear", "factor": 0}}, "factor must be a positive number"),
        ({"rope_scaling": {"type": "spiral"}}, "rope type 'spiral' is not supported"),
        ({"rope_scaling": {"type": "llama3", "factor": 8.0}}, "low_freq_factor"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"rope_theta": 1}, "rope_theta must be above 1"),
        ({"head_dim": 7}, "head_dim must be even"),
        ({"eos_token_id": "</s>"}, "eos_token_id"),
    ],
)
def test_what_the_decoder_cannot_run_is_refused_by_name(
    changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ModelError, match=words):
        read_config({**LLAMA, **changes}, {})


def test_layer_types_of_another_kind_are_refused() -> None:
    with pytest.raises(ModelError, match="layer_types"):
        read("Mistral", sliding_window=8, layer_types=["linear_attention"] * 3)
    with pytest.raises(ModelError, match="layer_types"):
        read("Mistral", sliding_window=8, layer_types=[[], [], []])


EXPERTS = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24}


def test_experts_are_read_in_the_keys_of_each_family() -> None:
    mixtral = read("Mixtral", num_local_experts=8, num_experts_per_tok=2)
    assert mixtral.experts == ExpertsConfig(8, 2, mixtral.intermediate_size, True, (True,) * 3)
    qwen = read("Qwen3Moe", **EXPERTS, decoder_sparse_step=2, mlp_only_layers=[0])
    assert qwen.experts == ExpertsConfig(6, 2, 24, False, (False, True, False))
    assert (qwen.qk_norm, qwen.head_dim, read("Qwen3").experts) == (True, 8, None)
    written_by_transformers = {"num_local_experts": 6, **EXPERTS, "norm_topk_prob": True}
    del written_by_transformers["num_experts"]
    assert read("Qwen3Moe", **written_by_transformers).experts == ExpertsConfig(
        6, 2, 24, True, (True,) * 3
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_experts_per_tok": 7}, "7 of 6 experts a token"),
        ({"num_experts": 4096}, "at most 1024 are supported"),
        ({"num_experts_per_tok": None}, "num_experts_per_tok must be a positive integer"),
        ({"moe_intermediate_size": None}, "moe_intermediate_size"),
        ({"mlp_only_layers": ["1"]}, "mlp_only_layers must be numbers of layers"),
        ({"mlp_only_layers": 1}, "mlp_only_layers must be numbers of layers"),
        ({"use_sliding_window": True}, "use_sliding_window is not supported with experts"),
    ],
)
def test_experts_that_cannot_be_run_are_refused_by_name(
    changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ModelError, match=words):
        read("Qwen3Moe", **{**EXPERTS, **changes})


KEYS = [
    *EXPERTS,
    "num_local_experts",
    "mlp_only_layers",
    "decoder_sparse_step",
    "use_sliding_window",
    *LLAMA,
    "head_dim",
    "rms_norm_eps",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "sliding_window",
    "layer_types",
    "max_window_layers",
    "eos_token_id",
    "quantization_config",
    "partial_rotary_factor",
]
rope_keys = st.sampled_from(["type", "rope_type", "factor", "rope_theta", "beta_fast", "mscale"])
words = st.sampled_from(["yarn", "linear", "dynamic", "llama3", "full_attention", ""])
scalars = st.none() | st.booleans() | st.integers(-2, 70) | st.floats() | words
values = scalars | st.lists(scalars, max_size=3) | st.dictionaries(rope_keys, scalars, max_size=4)


@settings(max_examples=300)
@given(
    st.sampled_from(["Llama", "Mistral", "Qwen2", "Qwen3", "Mixtral", "Qwen3Moe"]),
    st.dictionaries(st.sampled_from(KEYS), values, max_size=3),
)
def test_any_config_is_read_or_refused(family: str, changes: dict[str, Any]) -> None:
    try:
        config = read_config(
            {
                **LLAMA,
                **EXPERTS,
                "use_sliding_window": family != "Qwen3Moe",
                "architectures": [f"{family}ForCausalLM"],
                **changes,
            },
            {},
        )
    except ModelError:
        return
    assert len(config.windows) == config.num_layers
    if config.experts is not None:
        assert len(config.experts.layers) == config.num_layers
        assert 1 <= config.experts.choices <= config.experts.number
    assert config.num_heads % config.num_kv_heads == 0
    angles, factor = frequencies(config.rope)
    assert len(angles) == config.head_dim // 2
    assert math.isfinite(factor)
