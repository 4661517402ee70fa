"""5,000 bodies that are no request, over a socket to a real runtime: each is refused at once, and nothing leaks."""

import json
import random
import re
import time
from collections.abc import Iterator
from typing import Any

import httpx
import msgspec
import pytest
from tests.runtime.server.real import HEADERS, real_server
from tests.runtime.server.test_validate import GOOD, HI, POSTS, RAW

LEAKS = re.compile(r"Traceback|File \"|\.py\b|/lib/|/home/|/root/|0x[0-9a-f]{6}|msgspec|pydantic")
KINDS = {route.path: route.body for route in POSTS}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}

# Good bodies with all that can nest, to be broken somewhere.
RICH: dict[str, dict[str, Any]] = {
    **GOOD,
    "/v1/chat/completions": {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "hé"}], "name": "n"},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "content": "x", "tool_call_id": "c"},
        ],
        "tools": [TOOL],
        "tool_choice": "auto",
        "stop": ["x"],
        "logit_bias": {"1": 1},
        "max_tokens": 2,
        "stream_options": {"include_usage": True},
        "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {}}},
    },
    "/v1/completions": {"prompt": [[1, 2], [3]], "max_tokens": 2, "stop": "é", "n": 2},
    "/v1/responses": {"input": HI, "text": {"format": {"type": "text"}}, "max_output_tokens": 2},
    "/v1/messages": {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hé"}]}],
        "max_tokens": 2,
        "system": "s",
        "tools": [{"name": "f", "input_schema": {"type": "object"}}],
    },
    "/generate": {"text": ["hé"], "sampling_params": {"max_new_tokens": 2, "stop": ["x"]}},
}

WRONG: list[Any] = [
    *(True, False, -1, 0.5, -(2**31), 2**31, 2**63, 10**30, "", "x", "é" * 300, [], {}),
    *([None], [[]], [{}], {"a": None}, {"": ""}, [1, "x"], ["x", 1], [True], {"type": 1}),
]
MARK = "PUT HERE"
# What cannot be written as a Python value and then encoded.
TEXTS = [
    b"9" * 5000,
    b"-" + b"9" * 5000,
    b"1e999",
    b"NaN",
    b"Infinity",
    b"0x10",
    b"01",
    b"[" * 20_000 + b"]" * 20_000,
    b'{"a":' * 20_000 + b"1" + b"}" * 20_000,
    b'"a\x00b"',
    b'"a\\u0000b"',
    b'"\\ud800"',
    b'"\xff\xfe"',
    b'"\xc0\xaf"',
    b'"\\x41"',
    b"'a'",
    b"undefined",
    b"",
]
CODINGS = ("utf-16", "utf-16-le", "utf-32", "latin-1", "utf-7", "cp037")


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value inside."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        yield (*at, key)
        if isinstance(inner, dict | list):
            yield from places(inner, (*at, key))


def replaced(value: Any, at: tuple[Any, ...], new: Any) -> Any:
    copy = json.loads(json.dumps(value))
    inner = copy
    for key in at[:-1]:
        inner = inner[key]
    inner[at[-1]] = new
    return copy


def is_request(body: bytes, path: str) -> bool:
    """Whether the body is JSON of the right types; what it asks for may still be out of bounds."""
    try:
        msgspec.json.decode(body, type=KINDS[path])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return not re.search(rb"\\u0000|\\ud800", body)


def broken(rng: random.Random, path: str) -> bytes:
    """One body, broken in one of the ways that bodies are."""
    good = RICH[path]
    encoded = json.dumps(good, ensure_ascii=False).encode()
    match rng.randrange(6):
        case 0:
            return rng.choice(list(RAW.values()))
        case 1:
            fields = KINDS[path].__struct_encode_fields__
            return json.dumps({**good, rng.choice(fields): rng.choice(WRONG)}).encode()
        case 2:
            at = rng.choice(list(places(good)))
            return json.dumps(replaced(good, at, rng.choice(WRONG))).encode()
        case 3:
            at = rng.choice(list(places(good)))
            text = json.dumps(replaced(good, at, MARK)).encode()
            return text.replace(json.dumps(MARK).encode(), rng.choice(TEXTS))
        case 4:
            return json.dumps({**good, "x": "é"}, ensure_ascii=False).encode(rng.choice(CODINGS))
        case _:
            cut = rng.randrange(len(encoded))
            junk = rng.randbytes(rng.randrange(4))
            return encoded[:cut] + junk + encoded[cut + rng.randrange(4) :]


def malformed(count: int, seed: int = 7) -> Iterator[tuple[str, bytes]]:
    """Bodies that are no request of their route."""
    rng = random.Random(seed)
    while count:
        path = rng.choice(sorted(RICH))
        body = broken(rng, path)
        if not is_request(body, path):
            count -= 1
            yield path, body


def assert_is_error(path: str, body: bytes, answer: httpx.Response) -> None:
    seen = (path, body[:300], answer.status_code, answer.text[:300])
    assert 400 <= answer.status_code < 500, seen
    assert answer.headers["content-type"] == "application/json", seen
    error = answer.json()["error"]
    keys = {"message", "type"} if path.startswith("/v1/messages") else OPENAI
    assert set(error) == keys, seen
    assert 0 < len(error["message"]) < 1000, seen
    assert not LEAKS.search(answer.text), seen


OPENAI = {"message", "type", "param", "code"}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_5000_malformed_bodies_are_refused_in_the_routes_shape(capsys: Any) -> None:
    slowest, statuses = 0.0, dict[int, int]()
    with real_server() as server, httpx.Client(base_url=server.url, headers=HEADERS) as client:
        for path, body in malformed(5000):
            began = time.perf_counter()
            answer = client.post(path, content=body, timeout=20)
            slowest = max(slowest, time.perf_counter() - began)
            statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
            assert_is_error(path, body, answer)
        assert client.get("/health").status_code == 200
    with capsys.disabled():
        print(f"\n5000 malformed bodies: {statuses}, slowest {1000 * slowest:.0f} ms")
