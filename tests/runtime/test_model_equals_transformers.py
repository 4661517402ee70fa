"""Greedy text of the model runner equals `transformers.generate`, token for token, driven by plans made by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.make_model import make_model
from transformers import PreTrainedModel

from branchwork.runtime.models.loader import load_model
from branchwork.runtime.models.model_runner import ModelRunner
from branchwork.runtime.plan import Plan, Sample, Sampler, Segment, TableWrite
from branchwork.runtime.wire.config import RuntimeConfig

GREEDY = Sampler(0.0, 1.0, 0, 0.0, 0.0, 0.0, 1.0, 0, ())
NUM_SLOTS = 4096

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama tied, one kv head": ("llama", {"tie_word_embeddings": True, "num_key_value_heads": 1}),
    "llama with biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama linear rope": (
        "llama",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 3.0}},
    ),
    "llama llama3 rope": ("llama", {"rope_parameters": LLAMA3}),
    "llama yarn rope": ("llama", {"rope_parameters": YARN}),
    "mistral, window of 8": ("mistral", {"sliding_window": 8, "head_dim": 16}),
    "qwen2 tied": ("qwen2", {"tie_word_embeddings": True}),
    "qwen2, windows on layer 1": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
    ),
    "mixtral": ("mixtral", {"num_local_experts": 8, "num_experts_per_tok": 2}),
    "qwen3 with experts": (
        "qwen3_moe",
        {
            "num_experts": 6,
            "num_experts_per_tok": 3,
            "moe_intermediate_size": 24,
            "head_dim": 16,
            "norm_topk_prob": True,
        },
    ),
    "qwen3 with experts in every second layer, not normalised": (
        "qwen3_moe",
        {
            "num_experts": 6,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 24,
            "head_dim": 16,
            "norm_topk_prob": False,
            "decoder_sparse_step": 2,
            "num_hidden_layers": 4,
            "mlp_only_layers": [3],
        },
    ),
    "qwen3, 7:1 groups": (
        "qwen3",
        {"num_attention_heads": 7, "num_key_value_heads": 1, "head_dim": 8},
    ),
}


def given_prompts(count: int) -> list[list[int]]:
    """Prompts of different lengths, 3 to 40 tokens."""
    rng = np.random.default_rng(count)
    return [rng.integers(0, 130, size=int(n)).tolist() for n in rng.integers(3, 41, size=count)]


def oracle(model: PreTrainedModel, prompt: list[int], num_tokens: int) -> list[int]:
    """What transformers generates, one prompt at a time."""
    with torch.no_grad():
        out = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
            max_new_tokens=num_tokens,
            do_sample=False,
        )
    return out[0, len(prompt) :].tolist()


class Greedy:
    """A scheduler in miniature: each row's tokens, its slots in a shuffled order, and one plan a step."""

    def __init__(
        self,
        folder: Path,
        compiled: bool,
        dtype: str = "float32",
        max_rows: int = 32,
        **options: Any,
    ) -> None:
        model = load_model(RuntimeConfig(model=str(folder), dtype=dtype, **options))
        self.runner = ModelRunner(model, NUM_SLOTS, max_rows, max_len=256, compiled=compiled)
        self.free = np.random.default_rng(0).permutation(NUM_SLOTS).astype(np.int32).tolist()
        self.slots: list[list[int]] = [[] for _ in range(max_rows)]
        self.adapters = [0] * max_rows

    def segment(self, row: int, tokens: list[int], last: bool) -> Segment:
        start = len(self.slots[row])
        new = [self.free.pop() for _ in tokens]
        self.slots[row] += new
        sample = Sample(GREEDY, position=start + len(tokens)) if last else None
        slots = np.array(new, dtype=np.int32)
        return Segment(row, start, tuple(tokens), slots, sample, adapter=self.adapters[row])

    def generate(self, prompts: list[list[int]], num_tokens: int, chunk: int) -> list[list[int]]:
        """Prefill by chunks, then decode; requests whose prompt is short decode while others still prefill."""
        todo = [list(prompt) for prompt in prompts]
        texts: list[list[int]] = [[] for _ in prompts]
        while True:
            running = [row for row in range(len(prompts)) if len(texts[row]) < num_tokens]
            if not running:
                return texts
            segments = []
            for row in running:
                now, todo[row] = todo[row][:chunk], todo[row][chunk:]
                segments.append(self.segment(row, now, last=not todo[row]))
            result = self.runner.run(Plan(tuple(segments)))
            for row, out in zip(running, result.results, strict=True):
                if out.sampled is not None:
                    texts[row].append(out.sampled.token_id)
                    todo[row] = [out.sampled.token_id]


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "plain"])
@pytest.mark.parametrize("name", MODELS)
def test_greedy_text_equals_transformers_in_any_batch_and_chunking(
    name: str, compiled: bool, tmp_path: Path
) -> None:
    family, changes = MODELS[name]
    model = make_model(tmp_path, family, **changes)
    prompts = given_prompts(32)
    expected = [oracle(model, prompt, 12) for prompt in prompts[:8]]
    assert len({tuple(text) for text in expected}) == 8, "the model must not be degenerate"

    for chunk in (1000, 7):
        assert Greedy(tmp_path, compiled).generate(prompts, 12, chunk)[:8] == expected
        assert Greedy(tmp_path, compiled).generate(prompts[:1], 12, chunk) == expected[:1]


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "plain"])
def test_a_prefix_in_another_rows_slots_gives_the_same_text(compiled: bool, tmp_path: Path) -> None:
    model = make_model(tmp_path)
    prefix, tails = list(range(20)), [[30, 31, 32], [40]]
    expected = [oracle(model, prefix + tail, 10) for tail in tails]
    greedy = Greedy(tmp_path, compiled)
    greedy.generate([prefix], 1, chunk=1000)
    shared = np.array(greedy.slots[0][:20], dtype=np.int32)

    texts = []
    for row, tail in enumerate(tails, start=1):
        greedy.slots[row] = shared.tolist()
        segment = greedy.segment(row, tail, last=True)
        result = greedy.runner.run(Plan((segment,), (TableWrite(row, 0, shared),)))
        text = [result.results[0].sampled.token_id]
        while len(text) < 10:
            out = greedy.runner.run(Plan((greedy.segment(row, text[-1:], last=True),)))
            text.append(out.results[0].sampled.token_id)
        texts.append(text)

    assert texts == expected
