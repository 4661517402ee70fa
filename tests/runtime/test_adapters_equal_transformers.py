"""A model with low-rank adapters computes what transformers does with W + scaling · B A in the place of W."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.make_model import make_adapter, make_model
from tests.runtime.test_model_equals_transformers import Greedy, given_prompts, oracle
from transformers import PreTrainedModel

from branchwork.kernels.errors import KernelError
from branchwork.runtime.models.adapters import read_adapter_config
from branchwork.runtime.models.loader import load_model
from branchwork.runtime.models.model_runner import ModelRunner
from branchwork.runtime.models.weights import read_json
from branchwork.runtime.plan import Plan, Score, Segment
from branchwork.runtime.wire.config import RuntimeConfig

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama of wide layers": ("llama", {"hidden_size": 160, "intermediate_size": 224, "head_dim": 32}),
    "qwen2": ("qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("qwen3", {"head_dim": 16}),
}  # fmt: skip
BOTH = pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "plain"])


def merged(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """The model with an adapter's products added to its weights in float32."""
    config = read_adapter_config(read_json(folder / "adapter_config.json"))
    tensors = load_file(folder / "adapter_model.safetensors")
    out = copy.deepcopy(model)
    for name, module in out.named_modules():
        prefix = f"base_model.model.{name}"
        if f"{prefix}.lora_A.weight" in tensors:
            a, b = tensors[f"{prefix}.lora_A.weight"], tensors[f"{prefix}.lora_B.weight"]
            module.weight.data += config.scaling_of(name) * b @ a
    return out


def made(tmp_path: Path, name: str) -> tuple[list[PreTrainedModel], dict[str, Any]]:
    """The model and what it is with each of three adapters, of other ranks and targets; the options to load them."""
    family, changes = MODELS[name]
    model = make_model(tmp_path / "model", family, **changes)
    folders = (
        make_adapter(tmp_path / "all", model, rank=8, seed=1),
        make_adapter(tmp_path / "attention", model, rank=3, seed=2, targets=("q_proj", "v_proj")),
        make_adapter(
            tmp_path / "large",
            model,
            rank=40,
            seed=3,
            targets=("k_proj", "o_proj", "up_proj", "down_proj"),
            use_rslora=True,
            lora_alpha=4,
        ),
    )
    options = {"adapters": tuple((folder.name, str(folder)) for folder in folders)}
    return [model, *(merged(model, folder) for folder in folders)], options


@BOTH
@pytest.mark.parametrize("name", MODELS)
def test_greedy_text_with_adapters_equals_transformers_in_mixed_batches(
    name: str, compiled: bool, tmp_path: Path
) -> None:
    models, options = made(tmp_path, name)
    prompts = given_prompts(16)
    numbers = [0, 1, 2, 3, 3, 1, 1, 0, 2, 0, 1, 3, 2, 2, 0, 1]
    expected = [oracle(models[n], p, 10) for n, p in zip(numbers[:8], prompts, strict=False)]
    assert expected[0] != oracle(models[1], prompts[0], 10)
    for chunk in (1000, 7):
        greedy = Greedy(tmp_path / "model", compiled, **options)
        greedy.adapters[:16] = numbers
        assert greedy.generate(prompts, 10, chunk)[:8] == expected
    for row, number in enumerate(numbers[:8]):
        greedy = Greedy(tmp_path / "model", compiled, **options)
        greedy.adapters[0] = number
        assert greedy.generate(prompts[row : row + 1], 10, 1000) == expected[row : row + 1]


def logprobs(runner: ModelRunner, tokens: list[int], adapter: int) -> np.ndarray[Any, Any]:
    """Of every token after the last."""
    slots = np.arange(len(tokens), dtype=np.int32)
    score = Score(len(tokens) - 1, (5,), top=130)
    segment = Segment(0, 0, tuple(tokens), slots, score=score, adapter=adapter)
    scored = runner.run(Plan((segment,))).results[0].scored[0]
    return np.array([value for _, value in sorted(scored.top)])


@BOTH
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", MODELS)
def test_logits_with_an_adapter_are_those_of_merged_weights(
    name: str, dtype: str, compiled: bool, tmp_path: Path
) -> None:
    models, options = made(tmp_path, name)
    loaded = load_model(RuntimeConfig(model=str(tmp_path / "model"), dtype=dtype, **options))
    runner = ModelRunner(loaded, 1024, 8, 128, compiled=compiled)
    tokens = given_prompts(4)[0] * 3
    for number, model in enumerate(models):
        with torch.no_grad():
            want = model(torch.tensor([tokens])).logits[0, -1].double().log_softmax(-1).numpy()
        found = logprobs(runner, tokens, number)
        if dtype == "float32":
            np.testing.assert_allclose(found, want, atol=2e-4, rtol=1e-4)
        else:
            assert np.abs(found - want).mean() < 0.1
            assert np.argmax(found) in np.argsort(want)[-2:]


@BOTH
def test_a_folder_that_peft_wrote_computes_what_peft_computes(
    compiled: bool, tmp_path: Path
) -> None:
    # tests/data/peft_adapter: written by PEFT 0.21.2 over this model with use_rslora, ranks and alphas by pattern; the
    # numbers are those of its own forward pass and of its greedy generation.
    make_model(tmp_path, "qwen2")
    prompt = [3, 1, 4, 1, 5, 9, 2, 6, 53, 58, 97, 93, 23, 84, 62, 64]
    text = [119, 29, 53, 83, 74, 24, 30, 91, 36, 29, 92, 103, 36, 92, 74, 7]
    without = [24, 120, 32, 30, 52, 30, 99, 120, 32, 30, 75, 116, 120, 32, 18, 116]
    folder = Path(__file__).parents[1] / "data" / "peft_adapter"
    greedy = Greedy(tmp_path, compiled, adapters=(("peft", str(folder)),))
    found = logprobs(greedy.runner, prompt, 1)
    assert np.argsort(-found)[:5].tolist() == [119, 20, 123, 114, 2]
    np.testing.assert_allclose(
        np.sort(-found)[:5], [3.34, 3.4568, 3.6364, 3.6423, 3.6576], atol=5e-4
    )
    greedy.adapters[:2] = [1, 0]
    assert greedy.generate([prompt, prompt], 16, chunk=5) == [text, without]


@BOTH
def test_an_adapter_that_is_not_there_is_refused(compiled: bool, tmp_path: Path) -> None:
    _, options = made(tmp_path, "llama")
    greedy = Greedy(tmp_path / "model", compiled, **options)
    greedy.adapters[0] = 4
    with pytest.raises(KernelError, match="adapters: expected numbers from 0 to 3, found 4 to 4"):
        greedy.generate([[1, 2]], 1, 100)
    without = Greedy(tmp_path / "model", compiled)
    without.adapters[0] = 1
    with pytest.raises(KernelError, match="adapters: expected numbers from 0 to 0, found 1 to 1"):
        without.generate([[1, 2]], 1, 100)


@pytest.mark.parametrize("quantize", ["none", "int8", "int4"])
def test_a_row_with_an_adapter_has_the_same_bits_in_any_batch_and_chunk(
    tmp_path: Path, quantize: str
) -> None:
    _, options = made(tmp_path, "llama of wide layers")
    loaded = load_model(
        RuntimeConfig(model=str(tmp_path / "model"), dtype="bfloat16", quantize=quantize, **options)
    )
    runner = ModelRunner(loaded, 2048, 16, 128, compiled=True)
    prompts = given_prompts(16)
    numbers = [0, 1, 2, 3] * 4

    def segment(row: int, first: int, last: int) -> Segment:
        slots = np.arange(row * 128 + first, row * 128 + last, dtype=np.int32)
        score = Score(last - first - 1, (5,)) if last == len(prompts[row]) else None
        tokens = tuple(prompts[row][first:last])
        return Segment(row, first, tokens, slots, score=score, adapter=numbers[row])

    whole = [segment(row, 0, len(prompt)) for row, prompt in enumerate(prompts)]
    alone = [runner.run(Plan((one,))).results[0].scored[0].logprob for one in whole]
    together = runner.run(Plan(tuple(whole))).results
    assert [result.scored[0].logprob for result in together] == alone
    runner.run(Plan(tuple(segment(row, 0, 3) for row in range(16) if len(prompts[row]) > 3)))
    for row, prompt in enumerate(prompts):
        for place in range(3, len(prompt)):
            result = runner.run(Plan((segment(row, place, place + 1),))).results[0]
        if len(prompt) > 3:
            assert result.scored[0].logprob == alone[row]
