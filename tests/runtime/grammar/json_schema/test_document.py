"""References, identifiers and bounds of a schema text."""

# ruff: noqa: E501 (a case a line)

import json
from typing import Any

import pytest

from branchwork.runtime.grammar.json_schema.document import MAX_SCHEMA_BYTES, Document
from branchwork.runtime.wire.errors import ConstraintError


def resolve(schema: Any, ref: str, *path: str | int) -> str:
    """The pointer that `ref`, written at `path`, leads to."""
    document = Document(json.dumps(schema))
    place = document.root
    for key in path:
        place = document.enter(place.child(key))
    return document.resolve(ref, place).pointer


schema__ref__path__pointer = [
    ({"$defs": {"a": {}}}, "#/$defs/a", (), "/$defs/a"),
    ({"a": {}}, "#", ("a",), ""),
    ({"$defs": {"a/b": {}, "m~n": {}, "p%q": {}}}, "#/$defs/a~1b", (), "/$defs/a~1b"),
    ({"$defs": {"a/b": {}, "m~n": {}, "p%q": {}}}, "#/$defs/m~0n", (), "/$defs/m~0n"),
    ({"$defs": {"a/b": {}, "m~n": {}, "p%q": {}}}, "#/$defs/p%25q", (), "/$defs/p%q"),
    ({"allOf": [{}, {}]}, "#/allOf/1", (), "/allOf/1"),
    ({"$id": "http://x/root", "$defs": {"a": {}}}, "http://x/root#/$defs/a", (), "/$defs/a"),
    ({"$id": "http://x/root", "$defs": {"a": {"$id": "item"}}}, "http://x/item", (), "/$defs/a"),
    ({"$id": "http://x/root", "$defs": {"a": {"$id": "item", "$defs": {"b": {}}}}}, "#/$defs/b", ("$defs", "a"), "/$defs/a/$defs/b"),
    ({"$defs": {"a": {"$anchor": "here"}}}, "#here", (), "/$defs/a"),
    ({"$schema": "http://json-schema.org/draft-07/schema#", "definitions": {"a": {"$id": "#here"}}}, "#here", (), "/definitions/a"),
    ({"$schema": "http://json-schema.org/draft-04/schema#", "id": "http://x/y", "definitions": {"a": {"id": "z"}}}, "z", (), "/definitions/a"),
    ({"$id": "urn:uuid:1", "$defs": {"a": {}}}, "urn:uuid:1#/$defs/a", (), "/$defs/a"),
    ({"enum": [{"$anchor": "x"}], "$defs": {"b": {"$anchor": "x"}}}, "#x", (), "/$defs/b"),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "ref", "path", "pointer"), schema__ref__path__pointer)
def test_a_reference_leads_to_its_place(
    schema: Any, ref: str, path: tuple[str | int, ...], pointer: str
) -> None:
    assert resolve(schema, ref, *path) == pointer


@pytest.mark.parametrize(
    ("ref", "message"),
    [("#/a/b", "names no place"), ("#nowhere", "names no place"), ("http://x/y", "leaves the document"), ("other.json", "leaves the document")],
)  # fmt: skip
def test_a_reference_to_nowhere_is_refused(ref: str, message: str) -> None:
    with pytest.raises(ConstraintError, match=message):
        resolve({"a": []}, ref)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ('{"a": NaN}', "NaN"),
        ('{"a": 1, "a": 2}', "twice"),
        ("[" * 100_000, "nested too deeply"),
        ('{"minimum": 1e999999}', "too many digits"),
        ('{"minimum": ' + "9" * 5_000 + "}", "too many digits"),
        (" " * (MAX_SCHEMA_BYTES + 1), "larger than"),
    ],
)
def test_a_text_out_of_bounds_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConstraintError, match=message):
        Document(text)


def test_numbers_are_exact() -> None:
    assert Document("0.1").root.schema * 10 == 1  # type: ignore[operator]
    assert Document("1.0").root.schema == 1
    assert isinstance(Document("1e2").root.schema, int)
