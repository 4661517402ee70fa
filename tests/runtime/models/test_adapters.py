"""What an adapter's folder may hold, what it becomes, and what is refused."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tests.make_model import make_adapter, make_model
from transformers import PreTrainedModel

from branchwork.runtime.models.adapters import Adapters, load_adapters, read_adapter_config
from branchwork.runtime.models.loader import load_config, load_model
from branchwork.runtime.models.model_runner import ModelRunner
from branchwork.runtime.plan import Plan, Segment
from branchwork.runtime.wire.config import RuntimeConfig
from branchwork.runtime.wire.errors import ConfigError, ModelError

PREFIX = "base_model.model.model.layers"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PreTrainedModel]:
    folder = tmp_path_factory.mktemp("made")
    return folder, make_model(folder)


Made = tuple[Path, PreTrainedModel]


def load(made: Made, *folders: Path, dtype: torch.dtype = torch.float32) -> Adapters:
    sources = [(folder.name, folder) for folder in folders]
    return load_adapters(sources, load_config(made[0]), dtype, torch.device("cpu"))


def rewrite(folder: Path, **tensors: torch.Tensor | None) -> None:
    path = folder / "adapter_model.safetensors"
    kept = {**load_file(path), **tensors}
    save_file({name: tensor for name, tensor in kept.items() if tensor is not None}, path)


def test_matrices_that_are_applied_together_have_their_parts_one_after_another(
    made: Made, tmp_path: Path
) -> None:
    adapters = load(made, make_adapter(tmp_path / "a", made[1], rank=8))
    stored = load_file(tmp_path / "a" / "adapter_model.safetensors")
    qkv = adapters.weights.layers[1].qkv
    assert qkv is not None
    assert (qkv.widths, qkv.shrink.shape, qkv.expand.shape) == (
        (32, 16, 16),
        (1, 24, 32),
        (1, 64, 8),
    )
    k = f"{PREFIX}.1.self_attn.k_proj"
    assert torch.equal(qkv.shrink[0, 8:16], stored[f"{k}.lora_A.weight"])
    assert torch.equal(qkv.expand[0, 32:48], 2 * stored[f"{k}.lora_B.weight"])


def test_adapters_of_other_ranks_and_targets_have_zeros_where_they_have_nothing(
    made: Made, tmp_path: Path
) -> None:
    small = make_adapter(tmp_path / "a", made[1], rank=3, targets=("v_proj", "down_proj"))
    large = make_adapter(tmp_path / "b", made[1], rank=10, targets=("q_proj",))
    adapters = load(made, small, large)
    assert (adapters.names, adapters.weights.rank, adapters.weights.number) == (("a", "b"), 16, 2)
    layer = adapters.weights.layers[0]
    assert layer.out is None
    assert layer.gate_up is None
    assert layer.qkv is not None
    assert layer.down is not None
    assert not layer.qkv.shrink[0, :32].any()
    assert layer.qkv.shrink[0, 32:35].all()
    assert not layer.qkv.shrink[0, 35:].any()
    assert layer.qkv.expand[1, :32, :10].all()
    assert not layer.qkv.expand[1, :, 10:].any()
    assert not layer.down.shrink[1].any()


@pytest.mark.parametrize(
    ("changes", "scaling"),
    [
        ({}, 2.0),
        ({"lora_alpha": 1}, 1 / 4),
        ({"lora_alpha": 3, "use_rslora": True}, 3 / 2),
        ({"alpha_pattern": {"self_attn.q_proj": 12, "q_proj": 16}}, 3.0),
        ({"alpha_pattern": {"k_proj": 12, "^model.layers.0.self_attn.q_proj$": 20}}, 5.0),
        ({"alpha_pattern": {"layers\\.0\\.self_attn\\.q_proj": 20, "proj": 1}}, 5.0),
        ({"r": 7, "rank_pattern": {"proj": 2, "_proj": 3, "q_proj": 4}, "lora_alpha": 4}, 1.0),
    ],
)
def test_what_is_added_is_scaled_as_peft_does(
    made: Made, tmp_path: Path, changes: dict[str, Any], scaling: float
) -> None:
    folder = make_adapter(tmp_path / "a", made[1], targets=("q_proj",), **changes)
    stored = load_file(folder / "adapter_model.safetensors")
    qkv = load(made, folder).weights.layers[0].qkv
    assert qkv is not None
    want = scaling * stored[f"{PREFIX}.0.self_attn.q_proj.lora_B.weight"]
    torch.testing.assert_close(qkv.expand[0, :32, :4], want)


def test_a_name_with_default_in_it_is_the_same_tensor(made: Made, tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "a", made[1])
    path = folder / "adapter_model.safetensors"
    plain = load(made, folder)
    renamed = {n.replace(".weight", ".default.weight"): t for n, t in load_file(path).items()}
    save_file(renamed, path)
    assert load(made, folder).digests == plain.digests


def test_a_digest_is_that_of_what_is_computed_with(made: Made, tmp_path: Path) -> None:
    one = make_adapter(tmp_path / "a", made[1], seed=1)
    same = make_adapter(tmp_path / "b", made[1], seed=1, lora_dropout=0.5)
    other = make_adapter(tmp_path / "c", made[1], seed=2)
    scaled = make_adapter(tmp_path / "d", made[1], seed=1, lora_alpha=1)
    fewer = make_adapter(tmp_path / "e", made[1], seed=1, targets=("q_proj",))
    digests = load(made, one, same, other, scaled, fewer).digests
    assert digests[0] == digests[1]
    assert len(set(digests)) == 4
    # Neither place nor company matters.
    wide = make_adapter(tmp_path / "f", made[1], rank=32)
    assert load(made, wide, one).digests[1] == digests[0]
    assert load(made, one, dtype=torch.bfloat16).digests[0] != digests[0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"peft_type": "IA3"}, "peft_type 'IA3' is not supported"),
        ({"peft_type": None}, "peft_type None"),
        ({"use_dora": True}, "DoRA"),
        ({"bias": "lora_only"}, "bias 'lora_only'"),
        ({"bias": ["none"]}, "bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights 'pissa' changes the model's own"),
        ({"init_lora_weights": ["pissa"]}, "init_lora_weights"),
        ({"layer_replication": [[0, 1]]}, "layer_replication is not supported"),
        ({"target_parameters": ["mlp.experts.gate_up_proj"]}, "target_parameters is not supp"),
        ({"a_word_of_next_year": 1}, "a_word_of_next_year is not supported"),
        ({"r": 0}, "adapter_config.json: r must be a positive integer, found 0"),
        ({"r": 129}, r"rank 129 is more than is supported \(128\)"),
        ({"rank_pattern": {"q_proj": 200}}, "rank 200"),
        ({"rank_pattern": {"q_proj": "4"}}, "q_proj must be a positive integer, found '4'"),
        ({"rank_pattern": {"(a*)*b": 4}}, r"'\(a\*\)\*b' is no name of modules"),
        ({"rank_pattern": 4}, "rank_pattern must be an object"),
        ({"lora_alpha": None}, "lora_alpha must be a positive number"),
        ({"lora_alpha": math.inf}, "lora_alpha must be a positive number"),
        ({"alpha_pattern": {"q_proj": math.nan}}, "q_proj must be a positive number"),
        ({"use_rslora": "yes"}, "use_rslora must be true or false"),
        ({"auto_mapping": {"base_model_class": "Qwen2ForCausalLM"}}, "made for Qwen2ForCausalLM"),
    ],
)
def test_what_cannot_be_computed_is_refused_by_name(
    made: Made, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    folder = make_adapter(tmp_path / "a", made[1], **changes)
    with pytest.raises(ModelError, match=words):
        load(made, folder)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({f"{PREFIX}.7.mlp.up_proj.lora_A.weight": torch.ones(4, 32)}, "the model has 2 layers"),
        ({f"{PREFIX}.0.mlp.up_proj.lora_A.weight": torch.ones(4, 31)}, r"\[4, 32\], found \[4, 31"),
        ({f"{PREFIX}.0.mlp.up_proj.lora_B.weight": torch.ones(48, 5)}, r"\[48, 4\], found \[48, 5"),
        ({f"{PREFIX}.0.mlp.up_proj.lora_B.weight": torch.ones(48, 4).int()}, "of a float type"),
        (
            {f"{PREFIX}.0.mlp.up_proj.lora_B.weight": torch.full((48, 4), math.nan)},
            "up_proj.lora_B.weight has values that are not finite",
        ),
        ({f"{PREFIX}.0.mlp.up_proj.lora_B.weight": None}, "is alone; A and B belong together"),
        ({f"{PREFIX}.0.mlp.up_proj.lora_A.default.weight": torch.ones(4, 32)}, "the same matrix"),
        ({f"{PREFIX}.0.mlp.up_proj.lora_magnitude_vector": torch.ones(48)}, "DoRA"),
        ({f"{PREFIX}.0.mlp.up_proj.lora_B.bias": torch.ones(48)}, "no place for tensor"),
        ({f"{PREFIX}.0.mlp.experts.1.up_proj.lora_A.weight": torch.ones(4, 32)}, "experts are not"),
        ({"base_model.model.lm_head.lora_A.weight": torch.ones(4, 32)}, "embeddings and head are"),
        ({"base_model.model.model.embed_tokens.lora_embedding_A": torch.ones(4, 9)}, "embeddings"),
        ({"base_model.model.model.norm.weight": torch.ones(32)}, "no place for tensor"),
    ],
)
def test_tensors_without_a_place_or_of_another_shape_are_refused(
    made: Made, tmp_path: Path, tensors: dict[str, torch.Tensor | None], words: str
) -> None:
    folder = make_adapter(tmp_path / "a", made[1])
    rewrite(folder, **tensors)
    with pytest.raises(ModelError, match=words):
        load(made, folder)


def test_a_layer_of_experts_has_no_place_for_an_mlp(tmp_path: Path) -> None:
    model = make_model(tmp_path / "m", "mixtral", num_local_experts=4)
    dense = make_model(tmp_path / "d")
    attention = make_adapter(tmp_path / "a", model)
    assert load((tmp_path / "m", model), attention).weights.layers[0].gate_up is None
    with pytest.raises(ModelError, match="layer 0 of the model has experts instead"):
        load((tmp_path / "m", model), make_adapter(tmp_path / "b", dense))


def test_a_folder_that_is_none_or_pickled_is_refused(made: Made, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no adapter_config.json"):
        load(made, tmp_path)
    folder = make_adapter(tmp_path / "a", made[1])
    tensors = folder / "adapter_model.safetensors"
    tensors.rename(folder / "adapter_model.bin")
    with pytest.raises(ModelError, match="pickle files, which could run code"):
        load(made, folder)
    tensors.write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(ModelError, match="is not a safetensors file"):
        load(made, folder)
    save_file({}, tensors)
    with pytest.raises(ModelError, match="has no tensors"):
        load(made, folder)


@pytest.mark.parametrize("bomb", ["[" * 100_000, '{"a":' * 100_000, '{"r": ' + "9" * 5000 + "}"])
def test_json_that_is_no_config_is_refused_in_a_sentence(
    made: Made, tmp_path: Path, bomb: str
) -> None:
    folder = make_adapter(tmp_path / "a", made[1])
    (folder / "adapter_config.json").write_text(bomb)
    with pytest.raises(ModelError, match=r"adapter_config\.json of .* cannot be read"):
        load(made, folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"peft_type": "\x1b[2J\n" * 1000},
        {"\x1b[2J\nok": 1},
        {"lora_alpha": "9" * 1_000_000},
        {"auto_mapping": {"base_model_class": "a\nb"}},
    ],
)
def test_a_folders_own_words_are_cut_and_have_no_control_characters(
    made: Made, tmp_path: Path, changes: dict[str, Any]
) -> None:
    """They are written to the log and the terminal of whoever starts the runtime."""
    folder = make_adapter(tmp_path / "a", made[1], **changes)
    with pytest.raises(ModelError) as caught:
        load(made, folder)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) <= 1000


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_kv_is_the_same_to_the_bit_in_any_company(made: Made, tmp_path: Path, dtype: str) -> None:
    """So a store may know it by the adapter alone, though ranks are padded to the largest that is loaded."""
    small = ("small", str(make_adapter(tmp_path / "a", made[1], rank=5)))
    wide = ("wide", str(make_adapter(tmp_path / "b", made[1], rank=77)))
    found = []
    for adapters, number in (((small,), 1), ((wide, small), 2)):
        config = RuntimeConfig(model=str(made[0]), dtype=dtype, adapters=adapters)  # type: ignore[arg-type]
        runner = ModelRunner(load_model(config), 256, 2, 128, num_token_ids=130)
        rows = [
            Segment(
                row, 0, tuple(range(60)), np.arange(60, dtype=np.int32) + 128 * row, adapter=one
            )
            for row, one in enumerate((0, number))
        ]
        runner.run(Plan(tuple(rows)))
        slots = np.concatenate([row.slots for row in rows])
        found.append({name: kv.tobytes() for name, kv in runner.read_kv(slots).items()})
    assert found[0] == found[1]


def test_a_model_is_loaded_with_its_adapters_and_their_memory_is_asked_for(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapters = tuple(
        (name, str(make_adapter(tmp_path / name, made[1], rank=8))) for name in ("one", "two")
    )
    model = load_model(RuntimeConfig(model=str(made[0]), adapters=adapters))
    assert model.adapters is not None
    assert model.adapters.names == ("one", "two")
    assert load_model(RuntimeConfig(model=str(made[0]))).adapters is None
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(
        "branchwork.runtime.models.loader.check_fits",
        lambda name, size, dtype, device, quantize, number: asked.append((size, number)),
    )
    load_model(RuntimeConfig(model=str(made[0]), adapters=adapters))
    load_model(RuntimeConfig(model=str(made[0])))
    layers = model.adapters.weights.layers
    weights = [w for layer in layers for w in (layer.qkv, layer.out, layer.gate_up, layer.down)]
    taken = sum(w.shrink.nbytes + w.expand.nbytes for w in weights if w is not None)
    assert asked[0][0] - asked[1][0] == taken
    assert (asked[0][1], asked[1][1]) == (2, 0)


@pytest.mark.parametrize(
    "adapters",
    [
        (("a", "x"), ("a", "y")),
        (("", "x"),),
        (("a", ""),),
        (("a=b", "x"),),
        (("a\n", "x"),),
        (("a" * 129, "x"),),
        (("a",),),
        (["a", "x"],),
        [("a", "x")],
        ("ax",),
        tuple((str(i), "x") for i in range(257)),
    ],
)
def test_names_of_adapters_are_short_printable_and_of_one_each(adapters: Any) -> None:
    with pytest.raises(ConfigError, match="--adapter"):
        RuntimeConfig(adapters=adapters)


KEYS = [
    "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "peft_type", "bias", "use_dora",
    "modules_to_save", "init_lora_weights", "target_modules", "layers_pattern", "unheard_of",
]  # fmt: skip
names = st.sampled_from(
    ["q_proj", "mlp.up_proj", "^model.layers.0", "(a+)+$", "", "default", "none"]
)
scalars = st.none() | st.booleans() | st.integers(-2, 300) | st.floats() | names
values = scalars | st.lists(scalars, max_size=3) | st.dictionaries(names, scalars, max_size=3)


@settings(max_examples=300)
@given(st.dictionaries(st.sampled_from(KEYS), values, max_size=4))
def test_any_adapter_config_is_read_or_refused(changes: dict[str, Any]) -> None:
    try:
        config = read_adapter_config({"peft_type": "LORA", "r": 8, "lora_alpha": 16, **changes})
    except ModelError:
        return
    module = "model.layers.0.mlp.up_proj"
    assert 1 <= config.rank_of(module) <= 128
    assert 0 < config.scaling_of(module) < math.inf
