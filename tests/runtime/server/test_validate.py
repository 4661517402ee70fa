import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.runtime.server.conftest import Server

from branchwork.runtime.server.app import ROUTES
from branchwork.runtime.server.errors import ApiError
from branchwork.runtime.server.fields import ChatRequest, CompletionRequest
from branchwork.runtime.server.validate import decode

POSTS = [route for route in ROUTES if route.body is not None]
HI = [{"role": "user", "content": "hi"}]
GOOD: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": HI},
    "/v1/completions": {"prompt": "hi"},
    "/v1/responses": {"input": "hi"},
    "/v1/messages": {"messages": HI, "max_tokens": 4},
    "/v1/messages/count_tokens": {"messages": HI},
    "/v1/embeddings": {"input": "hi"},
    "/v1/score": {"prompt": "a", "choices": ["b"]},
    "/tokenize": {"prompt": "hi"},
    "/detokenize": {"tokens": [1]},
    "/generate": {"text": "hi"},
    "/abort_request": {"rid": "x"},
    "/server/flush_cache": {"cache_salt": "x"},
}
# Routes that also take no body at all.
BARE = ("/server/flush_cache",)
GENERATING = ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"]

RAW = {
    "empty": b"",
    "not json": b"hello",
    "half": b'{"prompt": "a',
    "trailing": b'{"prompt": "a"} x',
    "two": b"{}{}",
    "list": b"[]",
    "string": b'"a"',
    "null": b"null",
    "number": b"1",
    "latin-1": '{"prompt": "é"}'.encode("latin-1"),
    "utf-16": '{"prompt": "a"}'.encode("utf-16"),
    "bom": b"\xef\xbb\xbf{}",
    "overlong": b'{"prompt": "\xc0\xaf"}',
    "raw nul": b'{"prompt": "a\x00b"}',
    "nul": b'{"prompt": "a\\u0000b", "messages": [{"role": "user", "content": "\\u0000"}]}',
    "lone surrogate": b'{"prompt": "\\ud800", "input": "\\ud800", "text": "\\udfff"}',
    "nan": b'{"prompt": "a", "temperature": NaN}',
    "infinity": b'{"prompt": "a", "temperature": Infinity}',
    "huge float": b'{"prompt": "a", "temperature": 1e999}',
    "huge integer": b'{"prompt": "a", "n": ' + b"9" * 5000 + b"}",
    "nested arrays": b'{"prompt": ' + b"[" * 20000 + b"]" * 20000 + b"}",
    "nested objects": b'{"prompt": ' + b'{"a":' * 900 + b"1" + b"}" * 900 + b"}",
    "unclosed": b"[" * 100000,
    "single quotes": b"{'prompt': 'a'}",
    "comment": b'{"prompt": "a" /* no */}',
}


@pytest.fixture(scope="module")
def shared() -> Any:
    server = Server()
    yield server
    server.close()


def assert_refused(answer: Any) -> None:
    """4xx, in the route's shape, with nothing of ours in it."""
    assert 400 <= answer.status_code < 500, answer.text
    error = answer.json()["error"]
    assert error["message"]
    if "param" in error:
        assert set(error) == {"message", "type", "param", "code"}
    for leak in ("Traceback", "/lib/", ".py", "0x7f", "msgspec", "$"):
        assert leak not in answer.text


def test_every_route_has_a_good_body_here() -> None:
    assert {route.path for route in POSTS} == set(GOOD)


@pytest.mark.parametrize("path", GOOD)
def test_good_bodies_are_taken(shared: Any, path: str) -> None:
    assert shared.post(path, GOOD[path]).status_code == 200


@pytest.mark.parametrize("path", GOOD)
@pytest.mark.parametrize("name", RAW)
def test_bytes_that_are_no_request_are_refused(shared: Any, path: str, name: str) -> None:
    answer = shared.request("POST", path, content=RAW[name])
    if path in BARE and not RAW[name]:
        assert answer.status_code == 200
    else:
        assert_refused(answer)


WRONG: list[Any] = [True, -1, 1.5, 10**30, -(10**30), 2**63, "x", "", [], [None], {}, {"a": 1}]


@pytest.mark.parametrize("path", GOOD)
def test_wrong_types_in_every_field_never_break_the_server(shared: Any, path: str) -> None:
    """Some wrong values are right for a field; none may end in a 5xx, and nulls are always taken."""
    (kind,) = {route.body for route in POSTS if route.path == path}
    for name in kind.__struct_encode_fields__:
        for value in WRONG:
            answer = shared.post(path, {**GOOD[path], name: value})
            if answer.status_code != 200:
                assert_refused(answer)
        if name not in GOOD[path]:
            assert shared.post(path, {**GOOD[path], name: None}).status_code == 200, name


NUMBERS = {
    "temperature": [-0.1, 2.1, 1e30, -1e30, True, "1"],
    "top_p": [-0.1, 1.1, "1"],
    "top_k": [-2, 2**31, 1.5],
    "min_p": [-0.1, 1.1],
    "frequency_penalty": [-2.1, 2.1],
    "presence_penalty": [-2.1, 2.1],
    "repetition_penalty": [0, -1, 11],
    "seed": [2**63, -(2**63) - 1, 1.5, "1"],
    "min_tokens": [-1, 2**31],
    "priority": [2**31, -(2**31), "high"],
    "logit_bias": [{"a": 1}, {"-1": 1}, {"256": 1}, {"1": 101}, {"1": "x"}, {"9" * 50: 1}, [1]],
    "stop": [[""], "", [1], ["a"] * 17, "x" * 1025, {"a": 1}],
    "stop_token_ids": [[-1], [256], ["a"], [2**40]],
    "cache_salt": ["", 1, "x" * 1025],
    "regex": ["", "x" * 300_000, 1],
    "choices": [[], [""], [1], "yes"],
    "json_schema": ["", "{", "[]", 1, []],
    "response_format": [
        "json",
        {},
        {"type": "xml"},
        {"type": "json_schema"},
        {"type": "json_schema", "json_schema": {}},
        {"type": "json_schema", "json_schema": {"name": "x", "schema": "no"}},
    ],
    "chat_template": ["{{ 1 }}"],
}


@pytest.mark.parametrize("path", GENERATING)
@pytest.mark.parametrize("field", NUMBERS)
def test_values_out_of_bounds_are_refused_by_name(shared: Any, path: str, field: str) -> None:
    for value in NUMBERS[field]:
        answer = shared.post(path, {**GOOD[path], field: value})
        assert_refused(answer)
        assert field in answer.json()["error"]["message"], answer.text


@pytest.mark.parametrize("value", [0, -1, 129, 10**6, 2**31, 2**63, 10**30, 1.5, "2", True])
def test_the_number_of_answers_is_bounded(shared: Any, value: Any) -> None:
    for path in ("/v1/chat/completions", "/v1/completions"):
        answer = shared.post(path, {**GOOD[path], "n": value})
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "n"


@pytest.mark.parametrize("value", [-1, 21, 10**9, 1.5])
def test_the_number_of_alternatives_is_bounded(shared: Any, value: Any) -> None:
    chat = {"messages": HI, "logprobs": True, "top_logprobs": value}
    assert shared.post("/v1/chat/completions", chat).status_code == 400
    assert shared.post("/v1/completions", {"prompt": "a", "logprobs": value}).status_code == 400


def test_min_tokens_beyond_max_tokens_is_refused(shared: Any) -> None:
    body = {"prompt": "a", "min_tokens": 5, "max_tokens": 4}
    assert shared.post("/v1/completions", body).json()["error"]["param"] == "min_tokens"


def test_a_near_miss_of_a_field_is_refused_and_a_foreign_field_ignored(shared: Any) -> None:
    answer = shared.post("/v1/completions", {"prompt": "a", "max_token": 4})
    assert answer.json()["error"]["message"] == "unknown field max_token; did you mean max_tokens?"
    for foreign in ("use_beam_search", "draft_model", "spaces_between_special_tokens", "x"):
        assert shared.post("/v1/completions", {"prompt": "a", foreign: 1}).status_code == 200


def test_a_missing_field_is_named(shared: Any) -> None:
    error = shared.post("/v1/chat/completions", {}).json()["error"]
    assert error["message"] == "messages is required"
    assert error["param"] == "messages"
    error = shared.post("/v1/chat/completions", {"messages": [{"content": "x"}]}).json()["error"]
    assert error["param"] == "messages[0].role"


def test_another_model_is_not_found(shared: Any) -> None:
    for path in GENERATING:
        answer = shared.post(path, {**GOOD[path], "model": "gpt-9"})
        assert answer.status_code == 404
    assert shared.get("/v1/models/gpt-9").json()["error"]["code"] == "model_not_found"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
NAMES = st.sampled_from(sorted(ChatRequest.__struct_encode_fields__))


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(NAMES, JSON, max_size=4))
def test_any_object_is_a_request_or_an_error_that_can_be_shown(body: dict[str, Any]) -> None:
    for kind in (ChatRequest, CompletionRequest):
        with contextlib.suppress(ApiError):
            decode(json.dumps({**GOOD["/v1/chat/completions"], **body}).encode(), kind)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_a_request_or_an_error_that_can_be_shown(body: bytes) -> None:
    with pytest.raises(ApiError):
        decode(body, CompletionRequest)


@pytest.mark.slow
@settings(max_examples=1000, deadline=None)
@given(path=st.sampled_from(sorted(GOOD)), body=st.dictionaries(NAMES, JSON, max_size=6))
def test_thousands_of_bodies_end_in_an_answer_or_a_refusal(
    shared: Any, path: str, body: dict[str, Any]
) -> None:
    # As text: an infinity is no JSON, but some clients send it.
    text = json.dumps({**GOOD[path], **body}).encode()
    answer = shared.request("POST", path, content=text)
    if answer.status_code != 200:
        assert_refused(answer)
