"""Token masks beside the verdicts of `jsonschema`: a walk over an instance's tokens passes exactly if it is valid."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from tests.runtime.grammar.json_schema.test_oracle import schemas, values
from tests.runtime.grammar.vocabularies import EOS, allowed, json_pieces

from branchwork.runtime.grammar.interface import Grammar
from branchwork.runtime.grammar.json_schema import compile_schema
from branchwork.runtime.grammar.lower import lower
from branchwork.runtime.grammar.masks import lexicon_of
from branchwork.runtime.grammar.matcher import MachineGrammar
from branchwork.runtime.wire.errors import ConstraintError

JSON = json_pieces()
SIZES = range(max(map(len, JSON.token_bytes)), 0, -1)
IDS = {data: token for token, data in enumerate(JSON.token_bytes) if data}


def tokens(text: str) -> list[int]:
    """The text in tokens, each the longest that fits."""
    data, found = text.encode(), list[int]()
    while data:
        size = next(size for size in SIZES if data[:size] in IDS)
        found.append(IDS[data[:size]])
        data = data[size:]
    return found


def passes(grammar: Grammar, text: str) -> bool:
    """Whether every token of a text is in its mask, and the end behind them."""
    matcher = grammar.start()
    for token in (*tokens(text), EOS):
        row = matcher.mask()
        is_allowed = bool(row[token >> 5] >> (token & 31) & 1)
        # What may be accepted is found byte by byte, without a mask.
        assert matcher.accept(token) == is_allowed, (text, token)
        if not is_allowed:
            return False
    return True


def grammar_of(schema: Any) -> Grammar:
    try:
        return MachineGrammar(
            lower(compile_schema(json.dumps(schema), order="any")), lexicon_of(JSON)
        )
    except ConstraintError:
        assume(False)  # refused: the oracle of `test_oracle` looks at these
        raise


def check(schema: Any, instances: list[Any]) -> None:
    grammar, validator = grammar_of(schema), Draft202012Validator(schema)
    for instance in instances:
        text = json.dumps(instance, ensure_ascii=False)
        assert passes(grammar, text) == validator.is_valid(instance), (schema, text)


@given(schemas, st.lists(values, min_size=1, max_size=4))
@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
def test_an_instance_passes_the_masks_exactly_if_jsonschema_validates_it(
    schema: Any, instances: list[Any]
) -> None:
    check(schema, instances)


@pytest.mark.slow
@given(schemas, st.lists(values, min_size=1, max_size=8))
@settings(max_examples=3_000, deadline=None, suppress_health_check=list(HealthCheck))
def test_thousands_of_instances_pass_the_masks_exactly_if_jsonschema_validates_them(
    schema: Any, instances: list[Any]
) -> None:
    check(schema, instances)


@pytest.mark.slow
@given(schemas, values)
@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_bit_of_every_mask_is_what_accepting_says(schema: Any, instance: Any) -> None:
    matcher = grammar_of(schema).start()
    for token in tokens(json.dumps(instance, ensure_ascii=False)):
        mask = allowed(matcher, JSON)
        assert mask == {t for t in range(len(JSON.token_bytes)) if matcher.copy().accept(t)}
        if token not in mask:
            return
        matcher.accept(token)
