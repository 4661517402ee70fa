"""Schemas made to be expensive are compiled or refused by name, in bounded work."""

import json
from typing import Any

import pytest
from tests.runtime.grammar.json_schema.naive import accepts

from branchwork.runtime.grammar.json_schema import compile_schema
from branchwork.runtime.wire.errors import ConstraintError


def nested(depth: int) -> str:
    return '{"type": "array", "items": ' * depth + "{}" + "}" * depth


def in_all_of(depth: int) -> str:
    return '{"allOf": [' * depth + '{"minLength": 1}' + "]}" * depth


def overlapping(count: int) -> Any:
    """Alternatives that all overlap: each `oneOf` case needs the opposites of all others."""
    return {
        "oneOf": [
            {"properties": {f"p{i}": {"type": "string"}, f"q{i}": {"minimum": i}}}
            for i in range(count)
        ]
    }


def text_of(schema: Any) -> str:
    return schema if isinstance(schema, str) else json.dumps(schema)


@pytest.mark.parametrize(
    "schema",
    [
        nested(150),
        {"enum": [f"value {i}" for i in range(50_000)]},
        {"type": "object", "properties": {f"p{i}": {"type": "integer"} for i in range(10_000)}},
        {"type": "string", "pattern": "^(a|b)*a(a|b){5}$"},
        {"type": "string", "maxLength": 10**9},
        {"type": "array", "minItems": 10**6},
        {"allOf": [{"properties": {f"p{i}": {"minimum": i % 7}}} for i in range(300)]},
    ],
    ids=["150 deep", "50,000 words", "10,000 properties", "blow-up", "long", "many", "300 allOf"],
)
def test_a_large_schema_is_compiled(schema: Any) -> None:
    assert compile_schema(text_of(schema)).root is not None


@pytest.mark.parametrize(
    "schema",
    [
        nested(10_000),
        in_all_of(5_000),
        overlapping(30),
        {"allOf": [{"anyOf": [{"required": [f"a{i}"]}, {"required": [f"b{i}"]}]} for i in range(40)]},
        {"type": "string", "pattern": "(a|b)*a(a|b){60}$"},
        {"allOf": [{"$ref": "#/allOf/1"}, {"not": {"$ref": "#/allOf/0"}}]},
        {"type": "integer", "multipleOf": 1_000_003},
    ],
    ids=["10,000 deep", "5,000 allOf", "30 overlapping", "2**40 cases", "2**60 states", "circle", "large step"],
)  # fmt: skip
def test_an_unbounded_schema_is_refused(schema: Any) -> None:
    with pytest.raises(ConstraintError):
        compile_schema(text_of(schema))


def test_the_next_schema_after_a_bad_one_compiles() -> None:
    with pytest.raises(ConstraintError):
        compile_schema('{"$ref": "#"}')
    assert accepts(compile_schema('{"type": "null"}'), "null")
