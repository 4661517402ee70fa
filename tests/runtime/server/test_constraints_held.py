"""Constraints over HTTP and from the language, held by a real runtime whose model writes nonsense."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import jsonschema
import pytest
from tests.runtime.server.conftest import Server

from branchwork import function, gen
from branchwork.runtime.wire.backend import Backend
from branchwork.testing import mock_runtime

ASK = {"model": "mock", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 300}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Paris", "London"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture(scope="module")
def backend() -> Iterator[Backend]:
    with mock_runtime() as backend:
        yield backend


@pytest.fixture(scope="module")
def server(backend: Backend) -> Iterator[Server]:
    server = Server(backend, tool_format="hermes")
    yield server
    server.runner.close()


def format_of(schema: Any, **options: Any) -> dict[str, Any]:
    named = {"name": "answer", "schema": schema, **options}
    return {"response_format": {"type": "json_schema", "json_schema": named}}


def chat(server: Server, **fields: Any) -> dict[str, Any]:
    answer: httpx.Response = server.post("/v1/chat/completions", ASK | fields)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def content(body: dict[str, Any]) -> str:
    text: str = body["choices"][0]["message"]["content"]
    return text


BOUNDS = [
    {"type": "integer", "minimum": -3, "maximum": -1},
    {"type": "number", "exclusiveMaximum": -1.5, "minimum": -2},
    {"type": "integer", "minimum": 10**17, "maximum": 10**17 + 5},
    {"type": "integer", "minimum": 10**30, "maximum": 10**30 + 5},
    {"type": "number", "minimum": -1e25, "maximum": -1e24},
    {"const": -12345678901234567890123},
]


@pytest.mark.parametrize("schema", BOUNDS, ids=str)
def test_negative_and_huge_numbers_are_held_exactly_over_http(
    server: Server, schema: dict[str, Any]
) -> None:
    for seed in range(5):
        text = content(chat(server, temperature=1.5, seed=seed, **format_of(schema)))
        jsonschema.validate(json.loads(text), schema)


@pytest.mark.parametrize("schema", BOUNDS, ids=str)
def test_negative_and_huge_numbers_are_held_exactly_in_the_language(
    backend: Backend, schema: dict[str, Any]
) -> None:
    @function
    def number(s):  # type: ignore[no-untyped-def]
        s += "x = " + gen("value", json_schema=json.dumps(schema), temperature=1.5, seed=3)

    value = number.run(backend=backend)["value"]
    jsonschema.validate(json.loads(value) if isinstance(value, str) else value, schema)


def test_tools_and_a_response_format_together_give_a_call_or_the_json(server: Server) -> None:
    answer = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"],
              "additionalProperties": False}  # fmt: skip
    seen = set()
    for seed in range(30):
        choice = chat(server, tools=[WEATHER], temperature=2.0, seed=seed, **format_of(answer))[
            "choices"
        ][0]
        seen.add(choice["finish_reason"])
        if choice["finish_reason"] == "tool_calls":
            call = choice["message"]["tool_calls"][0]["function"]
            assert call["name"] == "weather"
            assert json.loads(call["arguments"])["city"] in ("Paris", "London")
        else:
            jsonschema.validate(json.loads(choice["message"]["content"]), answer)
    assert seen == {"tool_calls", "stop"}


def test_any_whitespace_lets_blanks_stand_and_bounds_them(server: Server) -> None:
    schema = {"type": "array", "items": {"type": "boolean"}, "minItems": 3, "maxItems": 3}
    texts = [
        content(chat(server, any_whitespace=True, temperature=2.0, seed=seed, **format_of(schema)))
        for seed in range(10)
    ]
    assert all(len(json.loads(text)) == 3 for text in texts)
    assert any(text != json.dumps(json.loads(text)) for text in texts)
    assert all(len(text) < 200 for text in texts)


def test_best_effort_says_what_it_leaves_out_and_strict_refuses_it(server: Server) -> None:
    schema = {"type": "object", "properties": {"a": {"not": {"uniqueItems": True}}}}
    refused = server.post("/v1/chat/completions", ASK | format_of(schema))
    assert refused.status_code == 400
    assert "/properties/a" in refused.text
    body = chat(server, **format_of(schema, strict=False))
    assert any("/properties/a" in warning for warning in body["warnings"])


def test_keys_come_in_their_declared_order(server: Server) -> None:
    properties = {name: {"type": "integer", "maximum": 9, "minimum": 0} for name in "zya"}
    schema = {"type": "object", "properties": properties, "required": ["a", "y", "z"],
              "additionalProperties": False}  # fmt: skip
    for seed in range(5):
        text = content(chat(server, temperature=2.0, seed=seed, **format_of(schema)))
        assert list(json.loads(text)) == ["z", "y", "a"]
