"""What a model folder may hold, and what is refused without running any of it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.make_model import make_model

from branchwork.bench.random_model import model_config
from branchwork.runtime.models.loader import LoadedModel, load_model, model_folder
from branchwork.runtime.models.placement import check_kv_cache_dtype, device_for, gpu_obstacle
from branchwork.runtime.models.weights import checksum
from branchwork.runtime.wire.config import RuntimeConfig
from branchwork.runtime.wire.errors import ConfigError, ModelError


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    make_model(folder)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy that the test may spoil."""
    return Path(shutil.copytree(made, tmp_path / "model"))


def load(folder: Path, **options: Any) -> LoadedModel:
    return load_model(RuntimeConfig(model=str(folder), **options))


def rewrite(folder: Path, **tensors: torch.Tensor | None) -> None:
    """Replace or, by None, drop tensors of the folder."""
    path = folder / "model.safetensors"
    kept = {**load_file(path), **tensors}
    save_file({name: t for name, t in kept.items() if t is not None}, path)


def test_a_sharded_folder_gives_the_tensors_of_a_whole_one(made: Path, tmp_path: Path) -> None:
    make_model(tmp_path, shard_size="10KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    whole, sharded = load(made).decoder.weights, load(tmp_path).decoder.weights
    assert torch.equal(whole.embedding, sharded.embedding)
    assert torch.equal(whole.final_norm, sharded.final_norm)


def test_weights_that_only_pickle_could_read_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pickle files, which could run code"):
        load(folder)


def test_a_folder_without_weights_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"has no \*.safetensors weights"):
        load(folder)


@pytest.mark.parametrize("content", [b"", b"\xff" * 8, b"\x80\x04K\x01."])
def test_a_file_that_is_no_safetensors_is_refused(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match="is not a safetensors file"):
        load(folder)


def test_a_missing_tensor_is_named(folder: Path) -> None:
    rewrite(folder, **{"model.layers.1.mlp.up_proj.weight": None})
    with pytest.raises(ModelError, match=r"has no tensor model.layers.1.mlp.up_proj.weight"):
        load(folder)


def test_a_tensor_of_another_shape_is_named_with_both(folder: Path) -> None:
    rewrite(folder, **{"model.norm.weight": torch.ones(31)})
    with pytest.raises(ModelError, match=r"model.norm.weight must have shape \[32\], found \[31\]"):
        load(folder)


def test_an_expert_that_is_missing_or_of_another_shape_is_named(tmp_path: Path) -> None:
    make_model(tmp_path, "mixtral", num_local_experts=4)
    name = "model.layers.1.block_sparse_moe.experts.3.w2.weight"
    rewrite(tmp_path, **{name: torch.ones(32, 40)})
    with pytest.raises(ModelError, match=rf"{name} must have shape \[32, 48\], found \[32, 40\]"):
        load(tmp_path)
    rewrite(tmp_path, **{name: None})
    with pytest.raises(ModelError, match=f"has no tensor {name}"):
        load(tmp_path)


def test_a_tensor_that_is_no_float_is_refused(folder: Path) -> None:
    rewrite(folder, **{"model.norm.weight": torch.ones(32, dtype=torch.int32)})
    with pytest.raises(ModelError, match="must be of a float type"):
        load(folder)


def test_a_tensor_without_a_place_is_refused(folder: Path) -> None:
    rewrite(folder, **{"model.layers.2.extra": torch.ones(1)})
    with pytest.raises(ModelError, match=r"no place for tensor model.layers.2.extra"):
        load(folder)


@pytest.mark.parametrize(
    "index",
    [
        {"weight_map": {"model.norm.weight": "missing.safetensors"}},
        {"weight_map": {"model.norm.weight": "../outside.safetensors"}},
        {"weight_map": {}},
        {"weight_map": ["model.safetensors"]},
        {},
    ],
)
def test_an_index_that_names_no_file_of_the_folder_is_refused(
    folder: Path, index: dict[str, Any]
) -> None:
    (folder.parent / "outside.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"model.safetensors.index.json of .* names"):
        load(folder)


@pytest.mark.parametrize("text", ["", "[]", "{", "\xff"])
def test_a_config_that_is_no_object_is_refused(folder: Path, text: str) -> None:
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ModelError, match=r"config.json"):
        load(folder)


@pytest.mark.parametrize("name", ["no/such/folder", "../nowhere", "nowhere", "~nobody/x"])
def test_a_name_that_is_neither_folder_nor_hub_name_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match="no such model folder"):
        model_folder(name)


def test_a_folder_without_a_config_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no config.json"):
        model_folder(str(tmp_path))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_cuda_is_refused_and_auto_is_the_cpu(folder: Path) -> None:
    with pytest.raises(ConfigError, match="--device cuda: there is no GPU here that torch can use"):
        load(folder, device="cuda")
    assert load(folder, device="auto").decoder.device.type == "cpu"


@pytest.mark.parametrize(
    ("capability", "head_dim", "obstacle"),
    [
        ((9, 0), 128, None),
        ((7, 5), 128, "the kernels need compute capability 8.0, this GPU has 7.5"),
        ((8, 0), 96, "the kernels take heads of 16, 32, 64, 128, 256, this model has 96"),
    ],
)
def test_a_gpu_that_cannot_run_a_model_is_refused_with_the_reason(
    capability: tuple[int, int],
    head_dim: int,
    obstacle: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    shape = model_config(1, 32, 48, 2, 1, head_dim, 300, 256)
    assert gpu_obstacle(shape) == obstacle
    assert device_for("auto", shape).type == device_for("cpu", shape).type == "cpu"
    if obstacle is None:
        assert device_for("cuda", shape).type == "cuda"
    else:
        with pytest.raises(ConfigError, match=f"--device cuda: {obstacle}"):
            device_for("cuda", shape)


def test_the_checksum_follows_the_weights_and_not_the_place(made: Path, folder: Path) -> None:
    assert checksum(folder) == checksum(made)
    rewrite(folder, **{"model.norm.weight": torch.zeros(32)})
    assert checksum(folder) != checksum(made)


def test_a_cache_in_fewer_bits_is_refused_where_it_cannot_be_had_and_says_what_can(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        ConfigError, match=r"--kv-cache-dtype int8: on a GPU only .* \(--kv-cache-dtype auto\)"
    ):
        load(made, kv_cache_dtype="int8")
    with pytest.raises(ConfigError, match=r"--kv-cache-dtype fp8: must be one of auto, int8, fp8_"):
        load(made, kv_cache_dtype="fp8")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 6))
    gpu = torch.device("cuda")
    with pytest.raises(
        ConfigError, match=r"needs compute capability 8.9, this GPU has 8.6; .* int8"
    ):
        check_kv_cache_dtype("fp8_e4m3", gpu)
    check_kv_cache_dtype("int8", gpu)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 9))
    check_kv_cache_dtype("fp8_e4m3", gpu)


def test_quantize_is_refused_where_it_cannot_be_had_and_says_what_can(
    made: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        ConfigError, match=r"--quantize int8: .* --dtype bfloat16, or --quantize none"
    ):
        load(made, quantize="int8", dtype="float32")
    with pytest.raises(ConfigError, match=r"--quantize int3: must be one of none, int8, int4"):
        load(made, quantize="int3")
    mixture = tmp_path / "mixture"
    make_model(mixture, "mixtral", num_local_experts=4)
    with pytest.raises(ConfigError, match=r"--quantize int8: the model is a mixture of experts, "):
        load(mixture, quantize="int8", dtype="bfloat16")
    make_model(tmp_path, intermediate_size=49)
    with pytest.raises(ConfigError, match=r"--quantize int4: .* odd widths; --quantize none"):
        load(tmp_path, quantize="int4", dtype="bfloat16")
