import json
from typing import Any

import pytest

from branchwork.runtime.server.schemas import closed, of_arguments

OPEN: dict[str, Any] = {"type": "object", "properties": {"a": {}}}
SHUT = {**OPEN, "additionalProperties": False}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (OPEN, SHUT),
        ({"properties": {"a": OPEN}}, {"properties": {"a": SHUT}, "additionalProperties": False}),
        ({"items": OPEN}, {"items": SHUT}),
        ({"prefixItems": [OPEN, {}]}, {"prefixItems": [SHUT, {}]}),
        ({"anyOf": [OPEN, {"$ref": "#/$defs/b"}]}, {"anyOf": [SHUT, {"$ref": "#/$defs/b"}]}),
        ({"$defs": {"b": OPEN}}, {"$defs": {"b": SHUT}}),
        ({"additionalProperties": OPEN}, {"additionalProperties": SHUT}),
    ],
)
def test_an_object_that_names_its_properties_has_no_others(schema: Any, expected: Any) -> None:
    before = json.dumps(schema)
    assert closed(schema) == expected
    assert json.dumps(schema) == before


@pytest.mark.parametrize(
    "schema",
    [
        True,
        {"type": "object"},
        {**OPEN, "additionalProperties": True},
        {**OPEN, "patternProperties": {"^x": {}}},
        {**OPEN, "minProperties": 2},
        {**OPEN, "required": ["b"]},
        {"enum": [OPEN]},
        {"const": OPEN},
        {"allOf": [OPEN, {"properties": {"b": {}}}]},
        {"$ref": "#/$defs/x", "properties": {"b": {}}, "$defs": {"x": OPEN}},
        {**OPEN, "anyOf": [{"required": ["a"]}, {"required": ["b"]}]},
        {"items": OPEN, "$defs": {"x": {"allOf": [{"$ref": "#/items"}]}}},
        {"properties": 3, "items": "x", "anyOf": {}},
    ],
)
def test_what_says_itself_or_stands_in_parts_is_left_as_it_is(schema: Any) -> None:
    assert closed(schema) == schema


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (None, {"type": "object", "properties": {}, "additionalProperties": False}),
        ({}, {"type": "object"}),
        ({"properties": {"a": {}}}, {"type": "object", "properties": {"a": {}}}),
        ({"type": ["object", "null"]}, {"type": "object"}),
        (
            {"anyOf": [OPEN, {"type": "string"}]},
            {"type": "object", "anyOf": [OPEN, {"type": "string"}]},
        ),
        ({"type": "string"}, None),
        ({"type": ["array", "null"]}, None),
        ({"type": None}, None),
    ],
)
def test_arguments_of_a_tool_are_an_object_whether_or_not_its_schema_says_so(
    schema: Any, expected: Any
) -> None:
    assert of_arguments(schema) == expected
