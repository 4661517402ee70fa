"""Requests beside the branches, on a model folder that has a tokenizer only."""

from pathlib import Path

import msgspec
import pytest
from tests.make_tokenizer import byte_level

from branchwork.runtime.io.desk import Desk
from branchwork.runtime.io.encoder import ModelEncoder
from branchwork.runtime.wire.errors import InvalidParameter, RequestTooLong
from branchwork.runtime.wire.validate import Limits

LIMITS = Limits(
    vocab_size=400,
    context_len=1000,
    max_text_bytes=1000,
    max_choices=4,
    max_stops=2,
    max_stop_bytes=8,
    max_logprobs=5,
    max_logit_bias=2,
    max_schema_bytes=200,
)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> ModelEncoder:
    folder: Path = tmp_path_factory.mktemp("model")
    byte_level(bos=True).save(str(folder / "tokenizer.json"))
    settings = {"bos_token": "<s>", "eos_token": "<|im_end|>"}
    (folder / "tokenizer_config.json").write_bytes(msgspec.json.encode(settings))
    return ModelEncoder(folder, 400, max_tokens=1000)


@pytest.fixture
def desk(encoder: ModelEncoder) -> Desk:
    return Desk(encoder, LIMITS)


def ask(desk: Desk, what: str, **body: object) -> dict[str, object]:
    decoded: dict[str, object] = msgspec.json.decode(
        desk.ask(what, msgspec.json.encode(body).decode())
    )
    return decoded


def test_a_text_is_tokenised_as_the_beginning_of_a_branch_and_back(desk: Desk) -> None:
    token_ids = ask(desk, "tokenize", text="the fox")["token_ids"]
    assert isinstance(token_ids, list)
    assert token_ids[0] == 2
    assert (
        ask(desk, "tokenize", text="the fox", add_special_tokens=False)["token_ids"]
        == (token_ids[1:])
    )
    assert ask(desk, "detokenize", token_ids=token_ids) == {"text": "<s>the fox"}


def test_an_empty_text_has_no_tokens(desk: Desk) -> None:
    assert ask(desk, "tokenize", text="") == {"token_ids": []}


def test_a_chat_is_rendered_and_tokenised(desk: Desk) -> None:
    body = {"messages": [{"role": "user", "content": "hi <|im_end|>"}]}
    text = "<|im_start|>user\nhi <|im_end|><|im_end|>\n<|im_start|>assistant\n"
    assert ask(desk, "render", **body) == {"text": text}
    token_ids = ask(desk, "tokenize", **body)["token_ids"]
    assert isinstance(token_ids, list)
    assert token_ids.count(1) == 1  # the user's own <|im_end|> is text
    assert ask(desk, "detokenize", token_ids=token_ids) == {"text": text}


def test_the_tokenizer_describes_itself(desk: Desk) -> None:
    info = ask(desk, "tokenizer_info")
    assert (info["bos_token"], info["eos_token"], info["pad_token"]) == ("<s>", "<|im_end|>", None)
    assert info["add_bos_token"] is True
    assert "<|im_start|>" in str(info["chat_template"])


@pytest.mark.parametrize(
    ("what", "body"),
    [
        ("shutdown", "{}"),
        ("__class__", "{}"),
        ("tokenize", "["),
        ("tokenize", '{"text": 3}'),
        ("tokenize", '{"messages": [{"role": "user"}]}'),
        ("tokenize", '{"messages": [{"role": "user", "content": "x", "extra": "["}]}'),
        ("tokenize", "[" * 100_000),
        ("detokenize", '{"token_ids": [400]}'),
        ("detokenize", '{"token_ids": [-1]}'),
        ("detokenize", "{}"),
        ("render", '{"messages": []}'),
    ],
)
def test_what_cannot_be_answered_is_refused(desk: Desk, what: str, body: str) -> None:
    with pytest.raises(InvalidParameter):
        desk.ask(what, body)


def test_a_text_that_no_context_could_hold_is_refused_before_it_is_tokenised(desk: Desk) -> None:
    longest = max(map(len, desk._encoder.tokenizer.token_bytes))
    with pytest.raises(RequestTooLong, match=r"the server holds 1000 tokens \(--max-len\)"):
        ask(desk, "tokenize", text="x" * (4 * longest * 1000 + 1))
