"""The corpus, tokenizer and trainer of the embedded model."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from examples.train_sprout.batches import REPEATED_WEIGHT, make_batches, weigh
from examples.train_sprout.card import card
from examples.train_sprout.corpus import (
    EARLY,
    EXERCISES,
    FINAL,
    LAST,
    LATE,
    SKILLS,
    exercise,
    held_out,
    stream,
)
from examples.train_sprout.document import CUT, Document, Piece, Turn, chat
from examples.train_sprout.draw import is_held_out
from examples.train_sprout.export import export
from examples.train_sprout.model import Llama, Shape, attend, rotate
from examples.train_sprout.skills.arithmetic import added, subtracted
from examples.train_sprout.template import tool_prompt
from examples.train_sprout.tokenizer import VOCABULARY, train_tokenizer
from examples.train_sprout.train import train
from tokenizers import Tokenizer
from transformers import AutoTokenizer

SPROUT = Path(__file__).parents[2] / "runtime" / "models" / "sprout"
TINY = Shape(
    VOCABULARY,
    hidden_size=32,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(documents=3_000)


def test_the_corpus_is_a_function_of_its_seed() -> None:
    first, again, other = (
        [document.text for document in itertools.islice(stream(seed, LATE), 50)]
        for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


@pytest.mark.parametrize("skill", EXERCISES)
def test_held_out_and_training_prompts_are_disjoint(skill: str) -> None:
    rng = random.Random(0)
    trained = [exercise(EXERCISES[skill], rng, held_out=False) for _ in range(100)]
    asked = held_out(skill, 20)
    assert len({document.prompt for document in asked}) == len(asked) > 0
    assert all(is_held_out(document.prompt) for document in asked)
    assert not any(is_held_out(document.prompt) for document in trained)


def test_every_exercise_has_a_share_and_every_skill_one_in_the_end() -> None:
    assert set(EARLY) | set(LATE) | set(LAST) | set(FINAL) == set(EXERCISES)
    assert set(SKILLS) <= set(FINAL)


@pytest.mark.parametrize("skill", EXERCISES)
def test_the_wanted_answer_itself_is_judged_right(skill: str) -> None:
    for document in held_out(skill, 10):
        assert document.text.startswith(document.prompt)
        assert document.judge(document.answer)
        assert not document.judge("something else")


def test_written_steps_are_right_for_all_pairs() -> None:
    for a, b in itertools.product(range(100), repeat=2):
        assert added(a, b).endswith(f" Answer: {a + b}")
        if a >= b:
            _, borrow, _, units, _, tens, answer = subtracted(a, b).split(CUT)
            assert borrow == f" {int(a % 10 < b % 10)},"
            assert 10 * int(tens[:-1]) + int(units[:-1]) == a - b
            assert answer == f" Answer: {a - b}"


def test_digits_stand_apart(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("= 1024.").tokens == ["=", "Ġ", "1", "0", "2", "4", "."]
    digits = set("0123456789")
    multi = [token for token in tokenizer.get_vocab() if len(token) > 1 and digits & set(token)]
    assert multi == []


def test_a_name_is_the_same_tokens_in_prose_and_in_json(tokenizer: Tokenizer) -> None:
    name = tokenizer.encode("Ada Lovelace").ids
    for text in ("I am Ada Lovelace.", '{"name": "Ada Lovelace"}', "name: Ada Lovelace\n"):
        ids = tokenizer.encode(text).ids
        assert any(ids[i : i + len(name)] == name for i in range(len(ids)))


def test_a_prompt_is_the_same_tokens_alone_and_before_its_answer(tokenizer: Tokenizer) -> None:
    for document in itertools.islice(stream(0, LATE), 300):
        prompt = tokenizer.encode(document.prompt).ids
        assert tokenizer.encode(document.text).ids[: len(prompt)] == prompt


def test_decoding_gives_the_text_back(tokenizer: Tokenizer) -> None:
    for text in ("naïve Zürich — 東京 🌱\n\n  x", '{"a": [{"b": 1}, "c"]}'):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_a_wanted_text_weighs_as_the_root_of_its_length(tokenizer: Tokenizer) -> None:
    document = Document((Piece("Q: two words\nA:"), Piece(" 12\n", wanted=True)))
    encoding = tokenizer.encode(document.text)
    weights = weigh(document, encoding.ids, encoding.offsets)
    assert encoding.tokens[-4:] == ["Ġ", "1", "2", "Ċ"]
    assert weights[-4:] == [pytest.approx((8 / 4) ** 0.5)] * 4
    assert set(weights[:-4]) == {0.0}


def test_a_prompt_weighs_where_it_repeats_itself(tokenizer: Tokenizer) -> None:
    document = Document((Piece("1 2 3\n1 2 9\n"), Piece("x", wanted=True)))
    encoding = tokenizer.encode(document.text)
    weights = weigh(document, encoding.ids, encoding.offsets)
    repeated = [
        token for token, w in zip(encoding.ids, weights, strict=True) if w == REPEATED_WEIGHT
    ]
    assert tokenizer.decode(repeated) == " 2 "


@pytest.mark.parametrize("heads", [4, 8])
def test_the_first_heads_begin_by_looking_back_one_token_and_two(heads: int) -> None:
    model = Llama(Shape(VOCABULARY, num_attention_heads=heads, num_key_value_heads=heads // 2))
    first = model.model.layers[0]
    x = first.input_layernorm(model.model.embed_tokens(torch.randint(VOCABULARY, (1, 60))))
    q, k = (
        rotate(p(x).view(1, 60, -1, 256 // heads).transpose(1, 2), *model.rotary(60, x.dtype))
        for p in (first.self_attn.q_proj, first.self_attn.k_proj)
    )
    for back, head in ((1, 0), (2, 1)):
        scores = (q[0, head] @ k[0, 0].T).detach()
        means = [float(scores.diagonal(-distance).mean()) for distance in range(10)]
        assert means.index(max(means)) == back


def test_attention_is_that_of_torch() -> None:
    q, k, v = torch.randn(2, 4, 9, 8), torch.randn(2, 2, 9, 8), torch.randn(2, 2, 9, 8)
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    torch.testing.assert_close(attend(q, k, v), expected)


def test_passes_hold_every_document_once_and_little_padding(tokenizer: Tokenizer) -> None:
    passes = make_batches(tokenizer, LATE, count=64, limit=4096, seed="0")
    assert sum(len(batch.ids) for batch in passes) == 64
    documents = itertools.islice(stream("0", LATE), 64)
    tokens = sum(len(tokenizer.encode(document.text).ids) for document in documents)
    assert tokens > 0.7 * sum(batch.weights.numel() for batch in passes)
    for batch in passes:
        assert batch.ids.shape[1] == batch.weights.shape[1] + 1


def test_a_document_beyond_the_limit_is_left_out(tokenizer: Tokenizer) -> None:
    passes = make_batches(tokenizer, LATE, count=64, limit=100, seed="0")
    assert 0 < sum(len(batch.ids) for batch in passes) < 64
    assert max(batch.weights.shape[1] for batch in passes) <= 112


def test_the_chat_template_writes_what_the_corpus_writes(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    export(Llama(TINY), tokenizer, tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    document = chat(Turn("system", "Be brief."), Turn("user", "Hi"), Turn("assistant", "Hello!"))
    written = loaded.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert written == document.prompt


def test_the_chat_template_lists_tools_as_the_corpus_does(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    export(Llama(TINY), tokenizer, tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    call = {"function": {"name": "f", "arguments": {"x": 1}}}
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "Call f."},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": '{"y": 2}'},
    ]
    expected = chat(
        Turn("system", tool_prompt([tool], None)),
        Turn("user", "Call f."),
        Turn("assistant", '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>'),
        Turn("user", '<tool_response>\n{"y": 2}\n</tool_response>'),
        Turn("assistant", "2"),
    )
    written = loaded.apply_chat_template(
        messages, tools=[tool], tokenize=False, add_generation_prompt=True
    )
    assert written == expected.prompt


def test_a_resumed_run_has_the_losses_of_one_without_a_break(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", None, shape=TINY, steps=5)
    (tmp_path / "broken").mkdir()
    (tmp_path / "whole" / "tokenizer.json").rename(tmp_path / "broken" / "tokenizer.json")
    train(tmp_path / "broken", None, shape=TINY, steps=5, until=3)
    resumed = train(tmp_path / "broken", tmp_path / "out", shape=TINY, steps=5)
    assert resumed == pytest.approx(whole[3:], rel=1e-3)
    assert whole[-1] < whole[0]
    stored = json.loads((tmp_path / "broken" / "checkpoint.json").read_text())
    assert stored == {"step": 5}
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_the_card_of_the_committed_weights_holds_every_exercise() -> None:
    rows = json.loads((SPROUT / "evaluation.json").read_text())
    assert [row["skill"] for row in rows] == list(EXERCISES)
    assert (SPROUT / "README.md").read_text(encoding="utf-8") == card(rows)
