"""The language of a schema beside the verdicts of `jsonschema`, on schemas and instances that Hypothesis makes."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from tests.runtime.grammar.json_schema.naive import accepts

from branchwork.runtime.grammar.json_schema import compile_schema
from branchwork.runtime.wire.errors import ConstraintError

KEYS = ["a", "b", "ab", "c"]
# No line break: Python's `$` matches before one, ECMA's does not.
STRINGS = ["", "a", "b", "ab", "aab", "é", '"\\']
PATTERNS = ["a", "^a", "b$", "^(a|b)*$", "^.$", "[^a]", "^a?b?$"]

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 12),
    st.sampled_from([0.5, -1.5, 2.25]),
    st.sampled_from(STRINGS),
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=3)
    ),
    max_leaves=6,
)


def _with(keyword: str, strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return strategy.map(lambda value: {keyword: value})


def _flat() -> st.SearchStrategy[Any]:
    types = st.sampled_from(["null", "boolean", "integer", "number", "string", "object", "array"])
    count = st.integers(0, 3)
    return st.one_of(
        st.booleans(),
        _with("type", types | st.lists(types, min_size=1, max_size=3, unique=True)),
        _with("const", values),
        _with("enum", st.lists(values, min_size=1, max_size=3)),
        _with("pattern", st.sampled_from(PATTERNS)),
        *(
            _with(k, st.integers(-2, 10))
            for k in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
        ),
        _with("multipleOf", st.sampled_from([1, 2, 3, 0.5, 0.25])),
        *(_with(k, count) for k in ("minLength", "maxLength", "minItems", "maxItems")),
        *(_with(k, count) for k in ("minProperties", "maxProperties")),
        _with("uniqueItems", st.just(True)),
        _with("required", st.lists(st.sampled_from(KEYS), max_size=2, unique=True)),
        _with(
            "dependentRequired",
            st.dictionaries(
                st.sampled_from(KEYS),
                st.lists(st.sampled_from(KEYS), max_size=2, unique=True),
                max_size=2,
            ),
        ),
    )


def _nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    some = st.lists(inner, min_size=1, max_size=3)
    named = st.dictionaries(st.sampled_from(KEYS), inner, max_size=3)
    return st.one_of(
        _with("properties", named),
        _with("patternProperties", st.dictionaries(st.sampled_from(PATTERNS), inner, max_size=2)),
        _with("additionalProperties", inner),
        _with("propertyNames", inner),
        _with("prefixItems", some),
        _with("items", inner),
        _with("contains", inner),
        _with("dependentSchemas", named),
        _with("not", inner),
        *(_with(k, some) for k in ("allOf", "anyOf", "oneOf")),
        st.fixed_dictionaries({"if": inner}, optional={"then": inner, "else": inner}),
        st.fixed_dictionaries(
            {"contains": inner, "maxContains": st.integers(0, 2)},
            optional={"minContains": st.integers(0, 2)},
        ),
        _with("unevaluatedProperties", inner),
        _with("unevaluatedItems", inner),
        st.lists(inner.filter(lambda s: isinstance(s, dict)), min_size=2, max_size=4).map(_merged),
    )


def _merged(schemas: list[dict[str, Any]]) -> dict[str, Any]:
    return {keyword: value for schema in schemas for keyword, value in schema.items()}


schemas = st.recursive(_flat(), _nested, max_leaves=6)


def check(schema: Any, instances: list[Any]) -> None:
    """Accepted exactly what is valid, unless the schema is refused."""
    validator = Draft202012Validator(schema)
    try:
        rules = compile_schema(json.dumps(schema), order="any")
    except ConstraintError as error:
        refusal = str(error)
        event(refusal.split(" ")[0])
        if refusal.startswith("No value"):
            assert not any(validator.is_valid(instance) for instance in instances)
        return
    for instance in instances:
        text = json.dumps(instance, ensure_ascii=False)
        assert accepts(rules, text) == validator.is_valid(instance), (schema, text)


@given(schemas, st.lists(values, min_size=1, max_size=8))
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_schema_accepts_exactly_what_jsonschema_validates(
    schema: Any, instances: list[Any]
) -> None:
    check(schema, instances)


@pytest.mark.slow
@given(schemas, st.lists(values, min_size=1, max_size=8))
@settings(max_examples=5_000, deadline=None, suppress_health_check=list(HealthCheck))
def test_thousands_of_schemas_accept_exactly_what_jsonschema_validates(
    schema: Any, instances: list[Any]
) -> None:
    check(schema, instances)
