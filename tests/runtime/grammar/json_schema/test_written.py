"""What is written under a schema's masks, token by token at random, beside the verdicts of `jsonschema`."""

import json
import random
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from tests.runtime.grammar.json_schema.test_oracle import schemas
from tests.runtime.grammar.vocabularies import EOS, json_pieces

from branchwork.runtime.grammar.interface import Grammar
from branchwork.runtime.grammar.json_schema import compile_schema
from branchwork.runtime.grammar.lower import lower
from branchwork.runtime.grammar.masks import lexicon_of
from branchwork.runtime.grammar.matcher import MachineGrammar
from branchwork.runtime.wire.errors import ConstraintError

JSON = json_pieces()
# Without a bias towards what JSON is made of, nearly all that is written is one long string.
MARKS = {
    token for token, data in enumerate(JSON.token_bytes) if data.decode("latin-1") in '{}[],":0a'
}
MARKS |= {token for token, data in enumerate(JSON.token_bytes) if len(data) > 1}

recursive = schemas.map(
    lambda inner: {
        "$ref": "#/$defs/n",
        "$defs": {
            "n": {
                "anyOf": [
                    inner,
                    {
                        "type": "object",
                        "properties": {"a": {"$ref": "#/$defs/n"}, "b": inner},
                        "required": ["a"],
                    },
                    {"type": "array", "prefixItems": [inner], "items": {"$ref": "#/$defs/n"}},
                ]
            }
        },
    }
)


def exact(text: str) -> Any:
    """JSON with numbers as they are written: floats would round what is a multiple, and what is none."""

    def number(digits: str) -> int | Fraction:
        value = Fraction(digits)
        return value.numerator if value.denominator == 1 else value

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len({key for key, _ in pairs}) == len(pairs), "a key stands twice"
        return dict(pairs)

    return json.loads(text, parse_float=number, object_pairs_hook=members)


def written(grammar: Grammar, draw: random.Random, max_tokens: int) -> str:
    """A text of the grammar: tokens of the masks at random, forced runs jumped or not, and then the closing."""
    matcher, text = grammar.start(), b""
    for _ in range(max_tokens):
        row = matcher.mask()
        bits = np.unpackbits(row.view(np.uint8), bitorder="little")
        tokens = np.flatnonzero(bits).tolist()
        if tokens == [EOS] or (EOS in tokens and draw.random() < 0.1):
            return text.decode()
        tokens = [token for token in tokens if token != EOS]
        marks = [token for token in tokens if token in MARKS]
        token = draw.choice(marks if marks and draw.random() < 0.7 else tokens)
        assert matcher.accept(token)
        text += JSON.token_bytes[token]
        forced = matcher.forced()
        if forced and draw.random() < 0.5:
            assert matcher.accept_bytes(forced)
            text += forced
    try:
        closing = matcher.closing()
    except ConstraintError:
        event("no way was found to close")
        assume(False)
        raise
    assert matcher.accept_bytes(closing)
    assert matcher.can_end()
    return (text + closing).decode()


def check(
    schema: Any, seed: int, order: Literal["declared", "any"], whitespace: Literal["fixed", "any"]
) -> None:
    """All that is written under the schema, if it is not refused, is valid JSON and valid under it."""
    try:
        rules = compile_schema(json.dumps(schema), order=order, whitespace=whitespace)
    except ConstraintError:
        assume(False)  # the oracle of `test_oracle` looks at these
        raise
    grammar = MachineGrammar(lower(rules), lexicon_of(JSON))
    validator, draw = Draft202012Validator(exact(json.dumps(schema))), random.Random(seed)
    for max_tokens in (0, 4, 12, 40):
        text = written(grammar, draw, max_tokens)
        assert validator.is_valid(exact(text)), (schema, text)


anything = given(
    schemas | recursive,
    st.integers(0, 2**32),
    st.sampled_from(["declared", "any"]),
    st.sampled_from(["fixed", "any"]),
)


@anything
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_what_is_written_under_a_schema_is_valid_under_it(
    schema: Any, seed: int, order: Any, whitespace: Any
) -> None:
    check(schema, seed, order, whitespace)


@pytest.mark.slow
@anything
@settings(max_examples=3_000, deadline=None, suppress_health_check=list(HealthCheck))
def test_what_is_written_under_thousands_of_schemas_is_valid_under_them(
    schema: Any, seed: int, order: Any, whitespace: Any
) -> None:
    check(schema, seed, order, whitespace)
