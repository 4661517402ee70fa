"""What the model runner promises beside the text itself."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.make_model import make_model
from tests.runtime.models.rounded import rounded_model

from branchwork.kernels.cpu import host
from branchwork.kernels.quantized import Quantize
from branchwork.runtime.models.loader import load_model
from branchwork.runtime.models.model_runner import ModelRunner
from branchwork.runtime.plan import (
    Plan,
    Sample,
    Sampler,
    Score,
    Segment,
    SegmentResult,
    SharedPrefix,
    TableWrite,
)
from branchwork.runtime.wire.config import RuntimeConfig

GREEDY = Sampler(0.0, 1.0, 0, 0.0, 0.0, 0.0, 1.0, 0, ())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    make_model(path, "qwen3", head_dim=16)
    return path


def make_runner(
    folder: Path, compiled: bool = True, dtype: str = "float32", ids: int = 130
) -> ModelRunner:
    model = load_model(RuntimeConfig(model=str(folder), dtype=dtype))
    return ModelRunner(model, 1024, 8, 128, num_token_ids=ids, compiled=compiled)


def prefill(row: int, tokens: range | list[int], **asked: object) -> Segment:
    slots = np.arange(row * 128, row * 128 + len(tokens), dtype=np.int32)
    return Segment(row, 0, tuple(tokens), slots, **asked)


def one(runner: ModelRunner, segment: Segment) -> SegmentResult:
    return runner.run(Plan((segment,))).results[0]


BOTH = pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "plain"])


@BOTH
def test_a_sample_with_nothing_allowed_gives_none_and_others_are_untouched(
    folder: Path, compiled: bool
) -> None:
    runner = make_runner(folder, compiled)
    nothing = np.zeros(5, np.int32)
    plan = Plan(
        (
            prefill(0, range(5), sample=Sample(GREEDY, 5, mask=nothing)),
            prefill(1, range(5), sample=Sample(GREEDY, 5)),
        )
    )
    blocked, free = runner.run(plan).results
    assert blocked.sampled is None
    assert free.sampled is not None
    assert np.isnan(free.sampled.logprob)


@BOTH
def test_masks_and_bans_and_padding_ids_are_never_chosen(folder: Path, compiled: bool) -> None:
    mask = np.zeros(5, np.int32)
    mask[1] = 0b1011  # tokens 32, 33 and 35
    sample = Sample(GREEDY, 5, mask=mask, banned=(33,))
    runner = make_runner(folder, compiled)
    assert one(runner, prefill(0, range(5), sample=sample)).sampled.token_id in (32, 35)
    for row in range(8):
        tokens = list(range(row, row + 20))
        sampled = one(
            make_runner(folder, compiled, ids=7), prefill(0, tokens, sample=Sample(GREEDY, 20))
        )
        assert sampled.sampled.token_id < 7


@BOTH
def test_logprobs_are_of_the_unmodified_distribution_and_scores_agree(
    folder: Path, compiled: bool
) -> None:
    runner = make_runner(folder, compiled)
    hot = Sampler(5.0, 1.0, 0, 0.0, 0.0, 0.0, 1.0, 3, ((9, 100.0),))
    sampled = one(runner, prefill(0, range(6), sample=Sample(hot, 6, top_logprobs=3))).sampled
    assert sampled.token_id == 9
    tokens = [*range(6), 9]
    scored = one(runner, prefill(1, tokens, score=Score(2, (3, 4, 5, 9), top=2))).scored
    assert [s.token_id for s in scored] == [3, 4, 5, 9]
    assert scored[3].logprob == pytest.approx(sampled.logprob, abs=1e-4)
    assert [t for t, _ in scored[3].top] == [t for t, _ in sampled.top[:2]]
    assert sampled.top[0][1] >= sampled.top[1][1] >= sampled.top[2][1]


@BOTH
def test_pooled_states_are_the_sum_or_the_last_after_the_final_norm(
    folder: Path, compiled: bool
) -> None:
    runner = make_runner(folder, compiled)
    whole = one(runner, prefill(0, range(6), pool_hidden="mean")).hidden
    parts = [one(runner, prefill(1, range(n), pool_hidden="last")).hidden for n in range(1, 7)]
    assert np.allclose(whole, np.sum(parts, axis=0), atol=1e-3)


def test_the_compiled_network_gives_the_same_bits_in_any_batch_chunk_and_slots(
    folder: Path,
) -> None:
    runner = make_runner(folder, dtype="bfloat16")
    rng = np.random.default_rng(0)
    prompts = [rng.integers(0, 130, 100).tolist() for _ in range(8)]
    score = Score(99, (5,))
    alone = [
        one(runner, prefill(i, p, score=score)).scored[0].logprob for i, p in enumerate(prompts)
    ]

    together = runner.run(Plan(tuple(prefill(i, p, score=score) for i, p in enumerate(prompts))))
    assert [r.scored[0].logprob for r in together.results] == alone

    slots = rng.permutation(1024).astype(np.int32)[:100]
    for start in range(0, 100, 7):
        end = min(start + 7, 100)
        last = Score(end - start - 1, (5,)) if end == 100 else None
        segment = Segment(3, start, tuple(prompts[0][start:end]), slots[start:end], score=last)
        result = one(runner, segment)
    assert result.scored[0].logprob == alone[0]


def test_a_step_beyond_the_workspace_is_refused_before_it_runs(folder: Path) -> None:
    model = load_model(RuntimeConfig(model=str(folder), dtype="float32"))
    runner = ModelRunner(model, 64, 2, 64, max_tokens=4, compiled=True)
    with pytest.raises(ValueError, match="token_ids: expected at most 4, found 5"):
        one(runner, prefill(0, range(5)))


def test_unused_slots_may_hold_nan(folder: Path) -> None:
    runner = make_runner(folder)
    cache = runner._cache
    expected = one(runner, prefill(0, range(70), sample=Sample(GREEDY, 70, top_logprobs=0))).sampled
    cache.k.fill_(torch.nan)
    cache.v.fill_(torch.nan)
    assert (
        one(runner, prefill(0, range(70), sample=Sample(GREEDY, 70, top_logprobs=0))).sampled
        == expected
    )


def test_a_team_of_threads_gives_the_same_bits_as_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "_TEAM_FROM_US", 0)
    model = load_model(RuntimeConfig(model=str(folder), dtype="bfloat16"))
    plan = Plan(
        tuple(prefill(row, range(row, row + 50), score=Score(49, (5,))) for row in range(8))
    )
    results = [
        ModelRunner(model, 1024, 8, 128, threads=threads, compiled=True).run(plan).results
        for threads in (1, 2, 3)
    ]
    assert results[0] == results[1] == results[2]


def test_requests_over_a_shared_prefix_get_the_same_bits_as_each_alone(folder: Path) -> None:
    runner = make_runner(folder, dtype="bfloat16")
    one(runner, prefill(0, range(100)))
    prefix = np.arange(100, dtype=np.int32)
    rows = (1, 2, 3, 4)
    writes = tuple(TableWrite(row, 0, prefix) for row in rows)
    slots = [np.array([500 + row], dtype=np.int32) for row in range(5)]
    segments = tuple(
        Segment(row, 100, (row,), slots[row], sample=Sample(GREEDY, 101, top_logprobs=3))
        for row in rows
    )
    alone = runner.run(Plan(segments, writes))
    together = runner.run(Plan(segments, writes, (SharedPrefix(rows, 100),)))
    assert together == alone


@BOTH
def test_what_is_sampled_in_the_places_of_guesses_is_what_steps_would_sample(
    folder: Path, compiled: bool
) -> None:
    runner = make_runner(folder, compiled)
    warm = Sampler(1.0, 1.0, 0, 0.0, 0.0, 0.0, 1.0, 7, ())
    samples = [Sample(warm, position, top_logprobs=2) for position in range(5, 9)]
    text = [3, 1, 4, 1, 5, 9, 2, 6]
    steps = [
        one(runner, prefill(0, text[: 5 + count], sample=sample)).sampled
        for count, sample in enumerate(samples)
    ]
    guessed = prefill(1, text, sample=samples[-1], guessed=tuple(samples[:-1]))
    beside = prefill(2, range(9), sample=Sample(GREEDY, 9, top_logprobs=0))
    result, other = runner.run(Plan((guessed, beside))).results
    found = [*result.guessed, result.sampled]
    assert [one.token_id for one in found if one] == [one.token_id for one in steps if one]
    assert other == one(runner, beside)


@pytest.mark.parametrize("quantize", ["int8", "int4"])
def test_a_quantised_model_computes_what_its_rounded_weights_do(
    tmp_path: Path, quantize: Quantize
) -> None:
    make_model(tmp_path, "qwen3", head_dim=16, hidden_size=160, tie_word_embeddings=True)
    options = RuntimeConfig(model=str(tmp_path), dtype="bfloat16", quantize=quantize)
    model = load_model(options)
    tokens, score = list(range(60)), Score(59, (5,), top=130)
    found = one(ModelRunner(model, 1024, 8, 128), prefill(0, tokens, score=score))
    in_full = rounded_model(model)
    expected = one(
        ModelRunner(in_full, 1024, 8, 128, compiled=True), prefill(0, tokens, score=score)
    )
    plain = load_model(replace(options, quantize="none"))
    other = one(ModelRunner(plain, 1024, 8, 128, compiled=True), prefill(0, tokens, score=score))

    def distance(one: SegmentResult, other: SegmentResult) -> float:
        """Between their logprobs of every token, on average."""
        values = [[value for _, value in sorted(result.scored[0].top)] for result in (one, other)]
        return float(np.abs(np.subtract(*values)).mean())

    # The weights of `rounded_model` are rounded once more, to bfloat16, which is as much as int8 does.
    assert distance(found, expected) < 0.05
    if quantize == "int4":
        assert distance(found, other) > 4 * distance(found, expected)
