"""What the compiler's child does: a constraint to a program, a stop pattern to a table."""

import contextlib
import gc
import json
from collections.abc import Iterator

from branchwork.runtime.grammar import ir
from branchwork.runtime.grammar.ebnf import ebnf_rules
from branchwork.runtime.grammar.json_schema import compile_schema
from branchwork.runtime.grammar.json_schema.formats import FORMATS
from branchwork.runtime.grammar.lower import lower
from branchwork.runtime.grammar.machine.program import Program
from branchwork.runtime.grammar.regex import compile_regex, stop_dfa
from branchwork.runtime.grammar.rules import dialect_of
from branchwork.runtime.grammar.stops import DEAD, StopTable
from branchwork.runtime.grammar.tags import any_of_rules, concat_rules, free_text, tags_rules
from branchwork.runtime.wire.errors import ConstraintError
from branchwork.runtime.wire.messages import (
    AnyOf,
    Choices,
    Concat,
    Constraint,
    Ebnf,
    FreeText,
    JsonSchema,
    JsonValue,
    Regex,
    StructuralTags,
)

# States of a stop pattern's automaton: more would be megabytes of lists.
MAX_STOP_STATES = 4096

_JSON_SCHEMAS = {"value": "true", "object": '{"type": "object"}'}

_USUAL: tuple[object, ...] = (
    True,
    {"uniqueItems": True},
    {"type": "string", "minLength": 1},
    *({"type": kind, "minimum": least} for kind in ("integer", "number") for least in (0, 1)),
    *({"type": kind, "exclusiveMinimum": 0} for kind in ("integer", "number")),
)

# Large classes of characters; digits, spaces and small properties are found in no time.
_CLASSES = (r"\w", r"\W", *(f"\\p{{{name}}}" for name in ("L", "Lu", "Ll", "N", "P", "S")))


def compile_constraint(constraint: Constraint) -> Program:
    """The program of a constraint; the same for every vocabulary.

    Raises ConstraintError for what cannot be read, enforced, satisfied or held within the limits.
    """
    with _uncollected():
        return lower(to_rules(constraint))


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Without the cyclic collector: it would look through all that is made again and again, and find no garbage."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def prepare() -> Iterator[None]:
    """Make the automata that many constraints use, one a step: they are kept (the formats take 0.7 s together)."""
    for schema in (*_USUAL, *({"type": "string", "format": name} for name in FORMATS)):
        compile_constraint(JsonSchema(json.dumps(schema)))
        yield
    for characters in _CLASSES:
        compile_constraint(Regex(f"{characters}+"))
        yield


def to_rules(constraint: Constraint) -> ir.Rules:
    """The constraint as a grammar in the intermediate representation."""
    match constraint:
        case Regex(pattern):
            return ir.Rules(compile_regex(pattern))
        case Choices(values):
            if not values:
                raise ConstraintError("there is nothing to choose from", "values")
            return ir.Rules(ir.any_of(value.encode() for value in values))
        case JsonSchema(schema, mode, whitespace, order):
            return compile_schema(schema, mode, whitespace, order)
        case JsonValue(kind, whitespace):
            return compile_schema(_JSON_SCHEMAS[kind], "strict", whitespace)
        case Ebnf(text, root):
            return _grammar_rules(text, root)
        case StructuralTags():
            return tags_rules(constraint, to_rules)
        case Concat():
            return concat_rules(constraint, to_rules)
        case AnyOf():
            return any_of_rules(constraint, to_rules)
        case FreeText(until):
            return ir.Rules(free_text(until))
    raise ConstraintError(f"{type(constraint).__name__} is not a constraint")


def _grammar_rules(text: str, root: str) -> ir.Rules:
    if dialect_of(text) == "gbnf":
        return ebnf_rules(text, root or "root")
    # It takes a while to import, and few grammars are written for it.
    from branchwork.runtime.grammar.lark import lark_rules  # noqa: PLC0415

    return lark_rules(text, root or "start")


def compile_stop(pattern: str) -> StopTable:
    """A stop pattern as a table. Raises ConstraintError if it is not regular, large, or matches the empty text."""
    shown = f"the stop pattern {pattern[:60]!r}"
    try:
        language = stop_dfa(pattern)
    except ConstraintError as error:
        raise ConstraintError(str(error), "stop_regex") from None
    if language.has_empty_string:
        raise ConstraintError(f"{shown} matches the empty text", "stop_regex")
    if language.num_states > MAX_STOP_STATES:
        size = language.num_states
        raise ConstraintError(f"{shown} needs {size} states of {MAX_STOP_STATES}", "stop_regex")
    first = language.table[language.start][language.classes]
    return StopTable(
        pattern,
        language.classes.tobytes(),
        language.table.tolist(),
        language.accepting.tolist(),
        language.start,
        (first != DEAD).tolist(),
    )
