"""Each keyword in small: texts that are accepted, and texts that are not."""

# ruff: noqa: E501 (a case a line)

import json
from typing import Any

import pytest
from tests.runtime.grammar.json_schema.naive import accepts

from branchwork.runtime.grammar.json_schema import compile_schema
from branchwork.runtime.wire.errors import ConstraintError

CLOSED = {"additionalProperties": False}


def props(**schemas: Any) -> dict[str, Any]:
    return {"type": "object", "properties": schemas, **CLOSED}


schema__accepted__rejected: list[tuple[Any, list[str], list[str]]] = [
    (True, ["null", '{"a": [1, 2.5e3, "x"]}', "[]"], ["{", "nul", '{"a": 1, }', '{"a": 1, "a": 1}', "01"]),
    ({"type": "null"}, ["null"], ["0", "false", '""']),
    ({"type": ["boolean", "null"]}, ["true", "false", "null"], ["0", '"true"']),
    ({"type": "integer"}, ["0", "-7", "123"], ["1.5", "-0", "007", "1e3", "+1", '"1"']),
    ({"type": "number"}, ["0", "-7.25", "1.0", "1e-06", "2.5E+10"], [".5", "1.", "1e", "--1", "NaN"]),
    ({"type": "integer", "minimum": -3, "maximum": 12}, ["-3", "0", "12"], ["-4", "13", "99"]),
    ({"type": "number", "exclusiveMinimum": 0, "maximum": 1.5}, ["0.1", "1.5", "1"], ["0", "-0.0", "0.0", "1.51", "2"]),
    ({"type": "number", "multipleOf": 0.01}, ["0.01", "12.5", "3", "-0.07"], ["0.001", "1.234"]),
    ({"type": "integer", "multipleOf": 7}, ["0", "7", "-49", "7000"], ["1", "-6", "50"]),
    ({"type": "integer", "not": {"multipleOf": 2}}, ["1", "-3"], ["0", "2", "-4"]),
    ({"enum": [1, "a", None, [1, 2], {"k": True}]}, ["1", '"a"', "null", "[1, 2]", '{"k": true}'], ["2", "[1]", '{"k": false}', "{}"]),
    ({"const": "x\"\\\né"}, ['"x\\"\\\\\\né"'], ['"x"', '"x\\"\\\\\\u000aé"', '"x\\"\\\\\\n\\u00e9"']),
    ({"type": "string", "minLength": 2, "maxLength": 3}, ['"ab"', '"é😀x"', '"\\"\\n"'], ['"a"', '"abcd"', '"\\""']),
    ({"type": "string", "maxLength": 2, "pattern": "^a*$"}, ['""', '"aa"'], ['"aaa"', '"b"']),
    ({"type": "string", "pattern": "b"}, ['"abc"', '"b"'], ['"ac"', '""']),
    ({"type": "string", "pattern": "^\\w+\\.$"}, ['"a1_."'], ['"a1_"', '"é."', '"a.\\n"']),
    ({"type": "string", "not": {"pattern": "^a"}}, ['"b"', '""'], ['"a"', '"ab"']),
    ({"type": "string", "allOf": [{"pattern": "^a"}, {"pattern": "b$"}]}, ['"ab"', '"axb"'], ['"a"', '"b"', '"xab"']),
    ({"type": "string"}, ['"\\u0000"', '"\\u001f"', '"\x7f"', '"/"', '"\u2028"'], ['"\x01"', '"\\/"', '"\\u0041"', '"\\ud83d"']),
    (props(a={"type": "null"}, b={}), ["{}", '{"a": null}', '{"a": null, "b": 1}'], ['{"c": 1}', '{"a": 1}', '{"a": null,"b": 1}']),
    ({**props(a={}, b={}), "required": ["b"]}, ['{"b": 1}', '{"a": 1, "b": 2}'], ["{}", '{"a": 1}']),
    ({"type": "object", "required": ["z"], "additionalProperties": {"type": "null"}}, ['{"z": null}', '{"z": null, "y": null}'], ["{}", '{"z": 1}', '{"z": null, "y": 1}']),
    ({"type": "object", "properties": {"a": {"type": "null"}}}, ['{"b": 1}', '{"a": null, "b": 1}'], ['{"a": 1}', '{"b": 1, "b": 2}']),
    ({"type": "object", "patternProperties": {"^x": {"type": "null"}, "y$": {"type": ["null", "integer"]}}, **CLOSED}, ['{"x": null, "y": 1}', '{"xy": null}'], ['{"x": 1}', '{"xy": 1}', '{"a": 1}']),
    ({"type": "object", "properties": {"ab": {"type": ["integer", "string"]}}, "patternProperties": {"^a": {"type": "integer"}}}, ['{"ab": 1}', '{"a": 2, "b": null}'], ['{"ab": "x"}', '{"ax": null}']),
    ({"type": "object", "propertyNames": {"maxLength": 1}}, ['{"a": 1, "": 2}', "{}"], ['{"ab": 1}']),
    ({"type": "object", "propertyNames": {"enum": ["a", "b"]}}, ['{"b": 1}', '{"a": 1, "b": 1}'], ['{"c": 1}']),
    ({"type": "object", "minProperties": 2, "maxProperties": 3}, ['{"a": 1, "b": 1}'], ["{}", '{"a": 1}', '{"a": 1, "a": 1}', '{"a": 1, "b": 1, "c": 1, "d": 1}']),
    ({"type": "array", "items": {"type": "integer"}}, ["[]", "[1, 2]"], ["[null]", "[1,2]", "[1, 2", "[1, ]"]),
    ({"type": "array", "prefixItems": [{"const": 1}, {"const": 2}], "items": {"const": 3}}, ["[]", "[1]", "[1, 2, 3, 3]"], ["[2]", "[1, 3]", "[1, 2, 2]"]),
    ({"type": "array", "prefixItems": [{"const": 1}], "items": False}, ["[]", "[1]"], ["[1, 1]"]),
    ({"type": "array", "minItems": 1, "maxItems": 2}, ["[1]", "[1, []]"], ["[]", "[1, 2, 3]"]),
    ({"type": "array", "contains": {"const": 1}}, ["[1]", "[0, 1, 1]"], ["[]", "[0]"]),
    ({"type": "array", "contains": {"const": 1}, "minContains": 0, "maxContains": 1}, ["[]", "[1, 0]"], ["[1, 1]"]),
    ({"type": "array", "prefixItems": [{}], "contains": {"const": 1}}, ["[1]", "[0, 1]"], ["[]", "[0]", "[0, 0]"]),
    ({"type": "array", "items": {"type": "integer"}, "uniqueItems": True}, ["[1, 2]", "[]"], ["[1, 1]", "[1, 2, 1]"]),
    ({"type": "array", "uniqueItems": True}, ['["a", {"a": 1}, {"a": 2}, 1.5, [1]]'], ['[{"a": 1}, {"a": 1}]', "[[1], [1]]", "[1, 1.0]"]),
    ({"allOf": [props(a={"type": "integer"}), {"required": ["a"], "properties": {"a": {"minimum": 3}}}]}, ['{"a": 3}'], ["{}", '{"a": 2}']),
    ({"anyOf": [{"type": "integer"}, props(a={})]}, ["1", '{"a": []}', "{}"], ['"x"', '{"b": 1}']),
    ({"oneOf": [{"type": "integer"}, {"type": "number", "minimum": 2}]}, ["1", "2.5"], ["3", "1.5"]),
    ({"oneOf": [{**props(a={}, b={}), "required": ["a"]}, {**props(a={}, b={}), "required": ["b"]}]}, ['{"a": 1}', '{"b": 1}'], ["{}", '{"a": 1, "b": 1}']),
    ({"type": "object", "not": {"required": ["a", "b"]}, "propertyNames": {"enum": ["a", "b"]}}, ["{}", '{"a": 1}', '{"b": 1}'], ['{"a": 1, "b": 2}']),
    ({**props(k={"enum": ["i", "s"]}, v={}), "required": ["k"], "if": {"properties": {"k": {"const": "i"}}}, "then": {"properties": {"v": {"type": "integer"}}}, "else": {"required": ["v"]}}, ['{"k": "i"}', '{"k": "i", "v": 1}', '{"k": "s", "v": "x"}'], ['{"k": "i", "v": "x"}', '{"k": "s"}']),
    ({**props(a={}, b={}), "dependentRequired": {"a": ["b"]}}, ["{}", '{"b": 1}', '{"a": 1, "b": 1}'], ['{"a": 1}']),
    ({**props(a={}, b={}), "dependentSchemas": {"a": {"properties": {"b": False}}}}, ['{"a": 1}', '{"b": 1}'], ['{"a": 1, "b": 1}']),
    ({**props(a={}, b={}), "dependencies": {"a": ["b"]}}, ["{}", '{"a": 1, "b": 1}'], ['{"a": 1}']),
    ({"$defs": {"n": {"anyOf": [{"type": "null"}, {**props(next={"$ref": "#/$defs/n"}), "required": ["next"]}]}}, "$ref": "#/$defs/n"}, ["null", '{"next": {"next": null}}'], ['{"next": 1}', "{}"]),
    ({"type": "object", "properties": {"a": {"type": "integer"}}, "allOf": [{"properties": {"b": True}}], "unevaluatedProperties": False}, ['{"a": 1, "b": 1}', "{}"], ['{"c": 1}', '{"a": 1, "c": 1}']),
    ({"type": "object", "anyOf": [{"properties": {"a": {"const": 1}}, "required": ["a"]}, {"properties": {"b": {"const": 2}}, "required": ["b"]}], "unevaluatedProperties": False}, ['{"a": 1}', '{"b": 2}', '{"a": 1, "b": 2}'], ["{}", '{"a": 1, "b": 3}', '{"a": 1, "c": 3}']),
    ({"type": "array", "prefixItems": [{"const": 1}], "contains": {"const": 2}, "unevaluatedItems": False}, ["[1, 2]", "[1, 2, 2]"], ["[1, 2, 3]", "[1]"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("schema", "accepted", "rejected"), schema__accepted__rejected, ids=lambda case: str(case)[:60]
)
def test_a_keyword_admits_exactly_what_it_says(
    schema: Any, accepted: list[str], rejected: list[str]
) -> None:
    rules = compile_schema(json.dumps(schema), order="any")
    assert [text for text in accepted if not accepts(rules, text)] == []
    assert [text for text in rejected if accepts(rules, text)] == []


def test_keys_come_in_the_order_of_the_schema_unless_any_order_is_asked_for() -> None:
    schema = json.dumps(props(a={}, b={}))
    declared, free = compile_schema(schema), compile_schema(schema, order="any")
    assert accepts(declared, '{"a": 1, "b": 2}')
    assert not accepts(declared, '{"b": 2, "a": 1}')
    assert accepts(free, '{"b": 2, "a": 1}')


def test_whitespace_is_fixed_unless_any_is_asked_for() -> None:
    schema = json.dumps(props(a={"type": "array"}))
    spaced = '{\n  "a" : [\n1,2 ]\t}'
    assert not accepts(compile_schema(schema), spaced)
    assert accepts(compile_schema(schema, whitespace="any"), spaced)
    assert not accepts(compile_schema(schema, whitespace="any"), '{"a":' + " " * 100 + "[]}")


def test_draft_4_and_7_forms_mean_what_their_drafts_say() -> None:
    old = "http://json-schema.org/draft-04/schema#"
    bounded = {
        "$schema": old,
        "type": "integer",
        "minimum": 1,
        "exclusiveMinimum": True,
        "maximum": 3,
    }
    assert [n for n in range(6) if accepts(compile_schema(json.dumps(bounded)), str(n))] == [2, 3]
    hidden = {
        "$schema": old,
        "definitions": {"s": {"type": "string"}},
        "properties": {"a": {"$ref": "#/definitions/s", "maxLength": 0}},
    }
    assert accepts(compile_schema(json.dumps(hidden)), '{"a": "xyz"}')
    pair = {"type": "array", "items": [{"type": "null"}], "additionalItems": {"type": "integer"}}
    assert accepts(compile_schema(json.dumps(pair)), "[null, 1]")
    assert not accepts(compile_schema(json.dumps(pair)), "[null, null]")


def test_what_nothing_can_satisfy_is_forbidden_or_refused() -> None:
    forbidden = {
        "type": "object",
        "properties": {"a": {"type": "integer", "minimum": 2, "maximum": 1}},
    }
    rules = compile_schema(json.dumps(forbidden))
    assert accepts(rules, '{"b": 1}')
    assert not accepts(rules, '{"a": 1}')
    endless = {
        "$defs": {
            "n": {"type": "object", "properties": {"n": {"$ref": "#/$defs/n"}}, "required": ["n"]}
        },
        "$ref": "#/$defs/n",
    }
    for schema in (False, {"allOf": [{"type": "null"}, {"type": "string"}]}, endless):
        with pytest.raises(ConstraintError, match="No value satisfies"):
            compile_schema(json.dumps(schema))


schema__pointer__message = [
    ({"properties": {"a/b": {"pattern": "(a)\\1"}}}, "/properties/a~1b/pattern", "pattern cannot be enforced"),
    ({"items": {"$ref": "http://example.com/x"}}, "/items/$ref", "nothing is fetched"),
    ({"items": {"$ref": "#/$defs/x"}}, "/items/$ref", "names no place"),
    ({"$ref": "#"}, "/$ref", "refers to itself"),
    ({"allOf": [{"$ref": "#"}]}, "/allOf", "refers to itself"),
    ({"items": {"type": "text"}}, "/items/type", "'text' is not a type"),
    ({"minLength": -1}, "/minLength", "at least 0"),
    ({"items": {"multipleOf": 0}}, "/items/multipleOf", "greater than 0"),
    ({"properties": []}, "/properties", "must be an object"),
    ({"anyOf": []}, "/anyOf", "must not be empty"),
    ({"items": 3}, "/items", "must be an object or a boolean"),
    ({"items": {"multipleOf": 1_000_003}}, "/items/multipleOf", "too many digits"),
    ({"contains": {"const": 1}, "allOf": [{"contains": {"const": 2}}]}, "", "Two `contains`"),
    ({"not": {"patternProperties": {"^a": {"type": "null"}}}}, "", "undeclared key"),
    ({"not": {"uniqueItems": True}}, "/not", "uniqueItems"),
    ({"$schema": "http://json-schema.org/draft-03/schema#"}, "/$schema", "Draft 3"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("schema", "pointer", "message"), schema__pointer__message, ids=lambda case: str(case)[:60]
)
def test_what_cannot_be_enforced_is_refused_by_its_pointer(
    schema: Any, pointer: str, message: str
) -> None:
    with pytest.raises(ConstraintError, match=message) as refused:
        compile_schema(json.dumps(schema))
    assert refused.value.param == pointer


def test_best_effort_leaves_out_what_it_cannot_enforce_and_says_so() -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "string", "pattern": "(a)\\1"}, "b": {"type": "null"}},
        "required": ["a"],
    }
    rules = compile_schema(json.dumps(schema), mode="best_effort")
    assert accepts(rules, '{"a": "x", "b": null}')
    assert not accepts(rules, '{"a": "x", "b": 1}')
    assert not accepts(rules, "{}")
    assert len(rules.warnings) == 1
    assert rules.warnings[0].startswith("/properties/a/pattern: ")


@pytest.mark.parametrize(
    ("schema", "admitted"),
    [
        ({"type": "integer", "multipleOf": 1_000_003}, "5"),
        ({"contains": {"const": 1}, "allOf": [{"contains": {"const": 2}}]}, "[1]"),
        ({"not": {"patternProperties": {"^a": {"type": "null"}}}}, "{}"),
        ({"items": {"$ref": "http://example.com/x"}}, "[3]"),
        ({"$ref": "#"}, "1"),
    ],
)
def test_best_effort_admits_more_where_strict_refuses(schema: Any, admitted: str) -> None:
    with pytest.raises(ConstraintError):
        compile_schema(json.dumps(schema))
    rules = compile_schema(json.dumps(schema), mode="best_effort")
    assert accepts(rules, admitted)
    assert len(rules.warnings) == 1


def test_best_effort_never_admits_less_under_a_negation() -> None:
    schema = {"type": "string", "not": {"pattern": "(a)\\1"}}
    rules = compile_schema(json.dumps(schema), mode="best_effort")
    assert accepts(rules, '"x"')
    assert rules.warnings


def test_an_unknown_format_is_reported_and_not_enforced() -> None:
    rules = compile_schema('{"type": "string", "format": "color"}')
    assert accepts(rules, '"anything"')
    assert rules.warnings == ("/format: 'color' is unknown and not enforced.",)
