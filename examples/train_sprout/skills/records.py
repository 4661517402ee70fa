"""A record in sentences or lines, turned into JSON of given keys."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from examples.train_sprout.document import (
    CUT,
    IM_END,
    IM_START,
    Document,
    Piece,
    Turn,
    plain,
    wanted,
)
from examples.train_sprout.draw import Draw
from examples.train_sprout.forms import with_system
from examples.train_sprout.words import COLOURS, HOBBIES, ITEMS, JOBS

Value = str | int | bool | list[str]


@dataclass(frozen=True, slots=True)
class Field:
    """A property of a record: how it is drawn and how a sentence says it.

    `clauses` have a place for the value, after a pronoun or the subject; `negated` is what is
    said of a boolean that is false.
    """

    key: str
    draw: Callable[[Draw], Value]
    clauses: tuple[str, ...]
    negated: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """A field with its value in one record."""

    field: Field
    value: Value

    def clause(self, draw: Draw) -> str:
        """What a sentence says of the value."""
        if self.value is False:
            return self.field.negated
        return draw.of(self.field.clauses).format(spoken(self.value, " and "))

    def line(self) -> str:
        """The value as it stands after `key: `."""
        if isinstance(self.value, bool):
            return "yes" if self.value else "no"
        return spoken(self.value, ", ")


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of record; the first field names the subject of its sentences."""

    pronouns: tuple[str, ...]
    fields: tuple[Field, ...]


def spoken(value: Value, last: str) -> str:
    """A value in words; `last` joins the last two elements of a list."""
    if isinstance(value, list):
        return last.join((", ".join(value[:-1]), value[-1])) if len(value) > 1 else value[0]
    return str(value)


def flag(draw: Draw) -> bool:
    """A fair boolean."""
    return draw.chance(0.5)


PERSON = Kind(
    ("She", "He"),
    (
        Field("name", Draw.name, ("{}",)),
        Field("age", lambda d: d.between(1, 99), ("is {} years old",)),
        Field("city", Draw.city, ("lives in {}",)),
        Field("job", lambda d: d.of(JOBS), ("works as a {}", "is a {}")),
        Field("email", Draw.email, ("has the e-mail {}",)),
        Field("hobbies", lambda d: d.some(HOBBIES, d.between(1, 3)), ("likes {}", "enjoys {}")),
        Field("member", flag, ("is a member",), "is not a member"),
        Field("phone", lambda d: str(d.number(10_000, 99_999)), ("has the phone number {}",)),
        Field("company", Draw.company, ("works for {}",)),
    ),
)
PRODUCT = Kind(
    ("It",),
    (
        Field("product", lambda d: f"{d.proper()} {d.of(ITEMS)}", ("The {}",)),
        Field("price", lambda d: d.number(1, 9_999), ("costs {} dollars",)),
        Field("colour", lambda d: d.of(COLOURS), ("comes in {}",)),
        Field("stock", lambda d: d.number(2, 999), ("has {} pieces in stock",)),
        Field("available", flag, ("is available",), "is not available"),
        Field("maker", Draw.company, ("is made by {}",)),
    ),
)
BOOK = Kind(
    ("It",),
    (
        Field("title", Draw.title, ("{}",)),
        Field("author", Draw.name, ("was written by {}",)),
        Field("year", lambda d: d.number(1500, 2024), ("came out in {}",)),
        Field("pages", lambda d: d.number(10, 999), ("has {} pages",)),
    ),
)
COMPANY = Kind(
    ("It",),
    (
        Field("company", Draw.company, ("{}",)),
        Field("founder", Draw.name, ("was founded by {}",)),
        Field("founded", lambda d: d.number(1500, 2024), ("was founded in {}",)),
        Field("city", Draw.city, ("is based in {}",)),
        Field("employees", lambda d: d.number(2, 9_999), ("has {} employees",)),
    ),
)
KINDS = (PERSON, PERSON, PERSON, PRODUCT, BOOK, COMPANY)

VALUE_ENDS = '",}'  # a simple value in JSON goes on to one of these
ORDERS = ("Extract the record as JSON.", "Write this record as JSON.")


def random_kind(draw: Draw) -> Kind:
    """A record of keys that mean nothing; only lines can tell it."""
    values: tuple[Callable[[Draw], Value], ...] = (Draw.word, Draw.number, Draw.proper, Draw.name)
    keys = dict.fromkeys(draw.word() for _ in range(draw.between(3, 5)))
    return Kind((), tuple(Field(key, draw.of(values), ()) for key in keys))


def entries(draw: Draw, kind: Kind, most: int = 4) -> list[Entry]:
    """Two to `most` fields of the kind with values, the naming field first."""
    rest = draw.some(kind.fields[1:], draw.between(1, min(most, len(kind.fields)) - 1))
    return [Entry(field, field.draw(draw)) for field in (kind.fields[0], *rest)]


def sentences(draw: Draw, kind: Kind, record: list[Entry]) -> str:
    """The record as prose."""
    subject = record[0].clause(draw)
    pronoun = draw.of(kind.pronouns)
    clauses = [entry.clause(draw) for entry in record[1:]]
    said: list[str] = []
    while clauses:
        take = min(len(clauses), draw.between(1, 2))
        who = draw.of((pronoun, pronoun, subject)) if said else subject
        said.append(f"{who} {' and '.join(clauses[:take])}.")
        del clauses[:take]
    return " ".join(said)


def lines(record: list[Entry], *, capital: bool) -> str:
    """The record as `key: value` lines, the keys in large or small letters."""
    keys = [entry.field.key.capitalize() if capital else entry.field.key for entry in record]
    return "\n".join(f"{key}: {entry.line()}" for key, entry in zip(keys, record, strict=True))


def type_of(value: Value) -> str:
    """The name of a value's JSON type."""
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer"
    return "list of strings" if isinstance(value, list) else "string"


def json_type(value: Value) -> dict[str, Any]:
    """The JSON Schema of a value."""
    if isinstance(value, list):
        return {"type": "array", "items": {"type": "string"}}
    return {"type": type_of(value)}


def schema(draw: Draw, record: list[Entry]) -> str:
    """The wanted fields in one of the ways in which prompts give them."""
    form = draw.rng.random()
    if form < 0.25:
        properties = {entry.field.key: json_type(entry.value) for entry in record}
        return f"Schema: {json.dumps({'type': 'object', 'properties': properties})}"
    if form < 0.6:
        return "Fields: " + ", ".join(f"{e.field.key} ({type_of(e.value)})" for e in record)
    return "Keys: " + ", ".join(e.field.key for e in record)


def as_json(record: list[Entry]) -> str:
    """The record as compact JSON, keys in the order of `record`, with a cut before each member."""
    members = (json.dumps({e.field.key: e.value}, ensure_ascii=False)[1:-1] for e in record)
    return "{" + f",{CUT} ".join(members) + "}"


def told(draw: Draw, *, any_case: bool) -> tuple[list[Entry], str]:
    """A record and a text that tells it: prose or lines.

    Keys that mean nothing stand as JSON has them, unless `any_case`: how a word never met before
    looks in small letters cannot be copied.
    """
    form = draw.rng.random()
    if form < 0.15:
        record = entries(draw, random_kind(draw))
        return record, lines(record, capital=draw.chance(0.5) and any_case)
    kind = draw.of(KINDS)
    record = entries(draw, kind)
    if form < 0.7:
        return record, sentences(draw, kind, record)
    return record, lines(record, capital=draw.chance(0.5))


def record_to_json(draw: Draw, *, any_case: bool = False) -> Document:
    """A record, and the keys to keep in their order; or lines without keys: the JSON."""
    record, text = told(draw, any_case=any_case)
    if "\n" in text and draw.chance(0.5):
        keep = record
        prompt = draw.of((f"{ORDERS[0]}\n{text}", f"{text}\n\n{ORDERS[1]}"))
    else:
        keep = draw.some(record, draw.between(max(1, len(record) - 1), len(record)))
        if draw.chance(0.5):
            keep.sort(key=record.index)
        prompt = f"{ORDERS[0]}\n{text}\n{schema(draw, keep)}"
    if draw.chance(0.6):
        return with_system(draw, Turn("user", prompt), Turn("assistant", as_json(keep)))
    return plain(f"{prompt}\nJSON:", f" {as_json(keep)}\n")


def record_with_given_keys(draw: Draw, *, any_case: bool = False) -> Document:
    """No keys in the prompt: they come from outside (a constraint), and the model gives the values.

    A value is wanted up to the mark that ends it, but for the last: nothing tells that it is.
    """
    record, text = told(draw, any_case=any_case)
    keep = draw.some(record, len(record))
    keep.sort(key=lambda entry: not isinstance(entry.value, list))
    opening = f"{ORDERS[0]}\n{text}"
    pieces = [Piece(f"{opening}\nJSON: {{")]
    if draw.chance(0.6):
        pieces = [Piece(f"{IM_START}user\n{opening}{IM_END}\n{IM_START}assistant\n{{")]
    for position, entry in enumerate(keep):
        value = json.dumps(entry.value, ensure_ascii=False)
        bare = value.lstrip('["')
        start, last = value[: len(value) - len(bare)], position == len(keep) - 1
        pieces.append(Piece(f'"{entry.field.key}": {start}'))
        pieces.append(Piece(bare.rstrip('"') if last else f"{bare},", wanted=True))
        pieces.append(Piece(('"}' if bare.endswith('"') else "}") if last else " "))
    return Document(tuple(pieces), VALUE_ENDS)


def few_shot_json(draw: Draw) -> Document:
    """One or two short records with their JSON, and one more."""
    kind = draw.of(KINDS)
    fields = (kind.fields[0], *draw.some(kind.fields[1:], draw.between(1, 2)))
    pieces: list[Piece] = []
    for _ in range(draw.between(2, 3)):
        record = [Entry(field, field.draw(draw)) for field in fields]
        pieces.append(Piece(f"Text: {sentences(draw, kind, record)}\nJSON:"))
        pieces += wanted(f" {as_json(record)}\n")
    return Document(tuple(pieces), "\n")
