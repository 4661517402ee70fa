"""Copying and looking up strings that mean nothing: what the useful skills are made of."""

from __future__ import annotations

import json

from examples.train_sprout.document import Document, Piece
from examples.train_sprout.draw import Draw
from examples.train_sprout.forms import ask


def anything(draw: Draw) -> str:
    """A string of any kind that has to be copied."""
    make = draw.of(
        (
            Draw.name,
            Draw.word,
            Draw.proper,
            Draw.city,
            Draw.email,
            Draw.title,
            Draw.street,
            Draw.company,
            Draw.date,
        )
    )
    return draw.split(lambda: make(draw)) if draw.chance(0.8) else str(draw.number())


def look_up(draw: Draw) -> Document:
    """Several keys with values, then the values in another order."""
    keys = list(dict.fromkeys(draw.word() for _ in range(draw.between(2, 6))))
    table = {key: anything(draw) for key in keys}
    form = draw.of(("{}: {}\n", "The {} is {}.\n"))
    text = "".join(form.format(key, value) for key, value in table.items())
    pieces = [Piece(text)]
    for key in draw.some(keys, len(keys)):
        before, after = form.format(key, "\0").split("\0")
        pieces.append(Piece(before.rstrip(" ")))
        pieces.append(Piece(f" {table[key]}{after}", wanted=True))
    return Document(tuple(pieces), "\n")


def as_list(draw: Draw) -> Document:
    """Strings in a row, as a JSON list."""
    values = [anything(draw) for _ in range(draw.between(2, 5))]
    question = f"List as JSON: {', '.join(values)}"
    return ask(draw, question, json.dumps(values, ensure_ascii=False))


def again(draw: Draw) -> Document:
    """A line of random words, and the same line again."""
    line = " ".join(anything(draw) for _ in range(draw.between(3, 6)))
    return Document((Piece(f"{line}\n"), Piece(f"{line}\n", wanted=True)), "\n")
