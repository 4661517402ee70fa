"""A record in sentences or lines, turned into JSON of a given schema, or into a filled form."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from examples.train_sprout.document import CUT, Document, Piece, Turn, plain, wanted
from examples.train_sprout.draw import Draw
from examples.train_sprout.forms import with_system
from examples.train_sprout.words import COLOURS, HOBBIES, ITEMS, JOBS

Value = str | int | bool | list[str] | dict[str, str]


@dataclass(frozen=True, slots=True)
class Field:
    """A property of a record: how it is drawn and how a sentence says it.

    `clauses` have a place for the value, after a pronoun or the subject; a boolean has two
    lists, for true and for false. `options` are an enum's values, `parts` an object's keys.
    """

    key: str
    draw: Callable[[Draw], Value]
    clauses: tuple[str, ...]
    negated: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Entry:
    """A field with its value in one record."""

    field: Field
    value: Value

    def clause(self, draw: Draw) -> str:
        """What a sentence says of the value."""
        if self.field.negated and self.value is False:
            return draw.of(self.field.negated)
        return draw.of(self.field.clauses).format(spoken(self.value, draw.of((" and ", ", "))))

    def line(self) -> str:
        """The value as it stands after `key: `."""
        if isinstance(self.value, bool):
            return "yes" if self.value else "no"
        return spoken(self.value, ", ")


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of record; the first field names the subject of its sentences."""

    pronoun: str
    fields: tuple[Field, ...]


def spoken(value: Value, last: str) -> str:
    """A value in words; `last` joins the last two elements of a list."""
    if isinstance(value, list):
        return last.join((", ".join(value[:-1]), value[-1])) if len(value) > 1 else value[0]
    if isinstance(value, dict):
        return ", ".join(value.values())
    return str(value)


def flag(draw: Draw) -> bool:
    """A fair boolean."""
    return draw.chance(0.5)


def words(draw: Draw) -> list[str]:
    """Two or three different words."""
    first, second = draw.word(), draw.word()
    return list(dict.fromkeys((first, f"{second}s" if second == first else second, draw.word())))[
        : draw.between(2, 3)
    ]


def enum(key: str, clause: str, *options: str) -> Field:
    """A field that takes one of a few words."""
    return Field(key, lambda draw: draw.of(options), (clause,), options=options)


PERSON = Kind(
    "They",
    (
        Field("name", Draw.name, ("{}",)),
        Field(
            "age",
            lambda d: d.between(1, 99),
            ("is {} years old", "is {}", "is aged {}", "has the age {}"),
        ),
        Field(
            "city",
            Draw.city,
            ("lives in {}", "comes from {}", "is from {}", "lives in the city of {}"),
        ),
        Field("job", lambda d: d.of(JOBS), ("works as a {}", "is a {}", "has worked as a {}")),
        Field("email", Draw.email, ("has the e-mail {}", "can be reached at {}", "writes from {}")),
        Field(
            "hobbies",
            lambda d: d.some(HOBBIES, d.between(1, 3)),
            ("likes {}", "enjoys {}", "has the hobbies {}"),
        ),
        Field("member", flag, ("is a member",), ("is not a member",)),
        Field("phone", lambda d: str(d.number(10_000, 99_999)), ("has the phone number {}",)),
        Field("company", Draw.company, ("works at {}", "works for {}")),
        Field(
            "address",
            lambda d: {"street": d.street(), "city": d.city()},
            ("has the address {}", "lives at {}"),
            parts=("street", "city"),
        ),
        enum("status", "has the status {}", "active", "inactive", "pending"),
        Field("born", lambda d: d.number(1500, 2024), ("was born in {}",)),
    ),
)
PRODUCT = Kind(
    "It",
    (
        Field(
            "product",
            lambda d: f"{d.proper()} {d.of(ITEMS)}" if d.chance(0.6) else d.of(ITEMS),
            ("The {}",),
        ),
        Field(
            "price",
            lambda d: d.number(1, 99_999),
            ("costs {} dollars", "has the price {}", "is sold for {} euros"),
        ),
        Field("colour", lambda d: d.of(COLOURS), ("is {}", "comes in {}", "has the colour {}")),
        Field("stock", lambda d: d.number(0, 9_999), ("has {} pieces in stock",)),
        Field("available", flag, ("is available",), ("is not available", "is sold out")),
        Field("tags", words, ("has the tags {}", "is tagged {}")),
        Field(
            "maker",
            lambda d: {"name": d.company(), "city": d.city()},
            ("is made by {}",),
            parts=("name", "city"),
        ),
        enum("category", "is in the category {}", "home", "garden", "office", "sport", "toys"),
        enum("size", "has the size {}", "small", "medium", "large"),
    ),
)
BOOK = Kind(
    "It",
    (
        Field("title", Draw.title, ("{}",)),
        Field("author", Draw.name, ("was written by {}", "is a book by {}")),
        Field("year", lambda d: d.number(1500, 2024), ("came out in {}", "was published in {}")),
        Field("pages", lambda d: d.number(10, 1_500), ("has {} pages",)),
        Field("translated", flag, ("is translated",), ("is not translated",)),
        Field("keywords", words, ("is about {}", "has the keywords {}")),
        enum("genre", "has the genre {}", "novel", "poetry", "history", "science"),
    ),
)
EVENT = Kind(
    "It",
    (
        Field(
            "event",
            lambda d: f"The {d.proper()} {d.of(('Meeting', 'Festival', 'Concert', 'Workshop'))}",
            ("{}",),
        ),
        Field("date", Draw.date, ("takes place on {}", "is on {}")),
        Field("time", Draw.time, ("starts at {}", "begins at {}")),
        Field("city", Draw.city, ("is held in {}", "takes place in {}")),
        Field("guests", lambda d: d.number(2, 99_999), ("has {} guests", "expects {} guests")),
        Field("online", flag, ("is online",), ("is not online",)),
        Field(
            "speakers",
            lambda d: [d.name() for _ in range(d.between(1, 2))],
            ("has the speakers {}",),
        ),
        Field(
            "host",
            lambda d: {"name": d.name(), "email": d.email()},
            ("is hosted by {}",),
            parts=("name", "email"),
        ),
    ),
)
COMPANY = Kind(
    "It",
    (
        Field("company", Draw.company, ("{}",)),
        Field("founder", Draw.name, ("was founded by {}", "has the founder {}")),
        Field("founded", lambda d: d.number(1500, 2024), ("was founded in {}",)),
        Field("city", Draw.city, ("is based in {}", "has its office in {}")),
        Field(
            "employees", lambda d: d.number(2, 99_999), ("has {} employees", "employs {} people")
        ),
        Field("public", flag, ("is public",), ("is not public",)),
        Field("products", lambda d: d.some(ITEMS, d.between(1, 3)), ("makes {}", "sells {}")),
    ),
)
ORDER = Kind(
    "They",
    (
        Field("customer", Draw.name, ("{}",)),
        Field("item", lambda d: d.of(ITEMS), ("ordered a {}", "wants to buy a {}")),
        Field("quantity", lambda d: d.number(1, 999), ("needs {} pieces", "asks for {} pieces")),
        Field("total", lambda d: d.number(1, 99_999), ("pays {} dollars",)),
        Field("paid", flag, ("has paid",), ("has not paid",)),
        Field("express", flag, ("wants express delivery",), ("does not want express delivery",)),
        enum("state", "has an order in the state {}", "open", "shipped", "returned"),
        Field("order", lambda d: d.number(100, 99_999), ("has the order number {}",)),
    ),
)
KINDS = (PERSON, PERSON, PERSON, PRODUCT, BOOK, EVENT, COMPANY, ORDER)

VALUE_ENDS = '",}'  # a simple value in JSON goes on to one of these
ORDERS = (
    "Extract the record as JSON.",
    "Turn the text into JSON.",
    "Extract the fields as JSON.",
    "Convert to JSON.",
    "Return the data as JSON.",
    "Extract JSON.",
)


def random_kind(draw: Draw) -> Kind:
    """A record of keys that mean nothing; only lines can tell it."""

    values: tuple[Callable[[Draw], Value], ...] = (
        Draw.word,
        Draw.number,
        Draw.proper,
        Draw.name,
        flag,
        words,
    )
    keys = dict.fromkeys(draw.word() for _ in range(draw.between(3, 6)))
    return Kind("It", tuple(Field(key, draw.of(values), ("has {}",)) for key in keys))


def entries(draw: Draw, kind: Kind, *, limit: int = 5) -> list[Entry]:
    """Two to `limit` fields of the kind with values, the naming field first."""
    rest = draw.some(kind.fields[1:], min(len(kind.fields) - 1, draw.between(1, limit - 1)))
    return [Entry(field, field.draw(draw)) for field in (kind.fields[0], *rest)]


def sentences(draw: Draw, kind: Kind, record: list[Entry]) -> str:
    """The record as prose."""
    subject = record[0].clause(draw)
    clauses = [entry.clause(draw) for entry in record[1:]]
    if len(clauses) >= 1 and kind is PERSON and record[1].field.key == "age" and draw.chance(0.2):
        clauses[0:1] = []
        subject = f"{subject}, {record[1].value},"
        if not clauses:
            return f"{subject} is here."
    text = ""
    while clauses:
        take = min(len(clauses), draw.between(1, 2))
        who = subject if not text else draw.of((kind.pronoun, kind.pronoun, subject))
        if kind.pronoun == "They" and who == "They":
            who = draw.of(("She", "He"))
        text += f"{' ' if text else ''}{who} {' and '.join(clauses[:take])}."
        del clauses[:take]
    return text


def lines(draw: Draw, record: list[Entry]) -> str:
    """The record as `key: value` lines in random order."""
    shuffled = draw.some(record, len(record))
    form = draw.of(("{}: {}", "{}: {}", "{}: {}", "- {}: {}", "{} = {}"))
    capital = draw.chance(0.4)
    keys = [entry.field.key.capitalize() if capital else entry.field.key for entry in shuffled]
    separator = "\n" if draw.chance(0.8) else "; "
    return separator.join(form.format(key, e.line()) for key, e in zip(keys, shuffled, strict=True))


def json_type(entry: Entry) -> dict[str, Any]:
    """The entry's JSON Schema."""
    if entry.field.options:
        return {"type": "string", "enum": list(entry.field.options)}
    if isinstance(entry.value, bool):
        return {"type": "boolean"}
    if isinstance(entry.value, int):
        return {"type": "integer"}
    if isinstance(entry.value, list):
        return {"type": "array", "items": {"type": "string"}}
    if isinstance(entry.value, dict):
        return {
            "type": "object",
            "properties": {part: {"type": "string"} for part in entry.field.parts},
        }
    return {"type": "string"}


def short_type(entry: Entry) -> str:
    """The entry's type in words."""
    if entry.field.options:
        return f"one of {', '.join(entry.field.options)}"
    if isinstance(entry.value, bool):
        return "boolean"
    if isinstance(entry.value, int):
        return "integer"
    if isinstance(entry.value, list):
        return "list of strings"
    if isinstance(entry.value, dict):
        return f"object with {', '.join(entry.field.parts)}"
    return "string"


def schema(draw: Draw, record: list[Entry]) -> str:
    """The wanted fields in one of the ways in which prompts give them."""
    form = draw.rng.random()
    if form < 0.3:
        properties = {entry.field.key: json_type(entry) for entry in record}
        whole: dict[str, Any] = {"type": "object", "properties": properties}
        if draw.chance(0.4):
            whole["required"] = list(properties)
        return f"Schema: {json.dumps(whole)}"
    if form < 0.6:
        return "Fields: " + ", ".join(f"{e.field.key} ({short_type(e)})" for e in record)
    if form < 0.85:
        return draw.of(("Fields: ", "Keys: ")) + ", ".join(e.field.key for e in record)
    return "Format: {" + ", ".join(f'"{e.field.key}": {short_type(e)}' for e in record) + "}"


def as_json(record: list[Entry]) -> str:
    """The record as compact JSON, keys in the order of `record`, with a cut before each member."""
    members = (json.dumps({e.field.key: e.value}, ensure_ascii=False)[1:-1] for e in record)
    return "{" + f",{CUT} ".join(members) + "}"


def told(draw: Draw) -> tuple[Kind, list[Entry], str]:
    """A record and a text that tells it: prose or lines."""
    if draw.chance(0.2):
        kind = random_kind(draw)
        record = entries(draw, kind)
        return kind, record, lines(draw, record)
    kind = draw.of(KINDS)
    record = entries(draw, kind)
    text = sentences(draw, kind, record) if draw.chance(0.65) else lines(draw, record)
    return kind, record, text


def record_to_json(draw: Draw) -> Document:
    """A record and a schema, with or without an instruction: the JSON."""
    _, record, text = told(draw)
    keep = draw.some(record, draw.between(max(1, len(record) - 2), len(record)))
    if draw.chance(0.5):
        keep.sort(key=record.index)
    body = f"{draw.of(('Text: ', 'Record: ', '', ''))}{text}" if "\n" not in text else text
    shape, order = schema(draw, keep), draw.of((*ORDERS, ""))
    parts = draw.of(
        ((order, body, shape), (order, shape, body), (body, order, shape), (shape, order, body))
    )
    prompt = draw.of(("\n", "\n", "\n\n")).join(part for part in parts if part)
    answer = as_json(keep)
    if draw.chance(0.55):
        return with_system(draw, Turn("user", prompt), Turn("assistant", answer))
    return plain(f"{prompt}\n{draw.of(('JSON:', 'JSON:', 'Answer:', 'Output:'))}", f" {answer}\n")


def record_with_given_keys(draw: Draw) -> Document:
    """No schema: the keys come from outside (a constraint), and the model gives the values.

    Only a simple value is asked for at the end, since nothing tells whether a member follows it.
    """
    _, record, text = told(draw)
    keep = draw.some(record, draw.between(1, len(record)))
    keep.sort(key=lambda entry: not isinstance(entry.value, list | dict))
    if isinstance(keep[-1].value, list | dict):
        keep.append(record[0])
    opening = draw.of((f"{text}\nJSON: ", f"Text: {text}\nJSON: ", f"{draw.of(ORDERS)}\n{text}\n"))
    if draw.chance(0.4):
        opening = f"<|im_start|>user\n{draw.of(ORDERS)}\n{text}<|im_end|>\n<|im_start|>assistant\n"
    pieces = [Piece(opening)]
    for position, entry in enumerate(keep):
        value = json.dumps(entry.value, ensure_ascii=False)
        bare = value.lstrip('[{"')
        start = value[: len(value) - len(bare)]
        pieces.append(Piece(f'{", " if position else "{"}"{entry.field.key}": {start}'))
        pieces.append(Piece(bare.rstrip('"'), wanted=True))
        pieces.append(Piece('"' if bare.endswith('"') else ""))
    return Document((*pieces, Piece("}")), VALUE_ENDS)


def filled_form(draw: Draw) -> Document:
    """Prose, then `Key: value` lines to fill in one after another."""
    kind = draw.of(KINDS)
    record = entries(draw, kind)
    keep = draw.some(record, draw.between(1, len(record)))
    opening = draw.of(("{}\n", "Text: {}\n", "{}\n\n", "Fill in the form.\n{}\n"))
    pieces = [Piece(opening.format(sentences(draw, kind, record)))]
    for entry in keep:
        pieces.append(Piece(f"{entry.field.key.capitalize()}:"))
        pieces.append(Piece(f" {entry.line()}\n", wanted=True))
    return Document(tuple(pieces), "\n")


def few_shot_json(draw: Draw) -> Document:
    """Two or three short records with their JSON, and one more."""
    kind = draw.of(KINDS)
    fields = (kind.fields[0], *draw.some(kind.fields[1:], draw.between(1, 2)))
    before, between = draw.of((("Text: ", "\nJSON:"), ("Input: ", "\nOutput:"), ("Q: ", "\nA:")))
    pieces: list[Piece] = []
    for _ in range(draw.between(2, 4)):
        record = [Entry(field, field.draw(draw)) for field in fields]
        pieces.append(Piece(f"{before}{sentences(draw, kind, record)}{between}"))
        pieces += wanted(f" {as_json(record)}\n")
    return Document(tuple(pieces), "\n")
