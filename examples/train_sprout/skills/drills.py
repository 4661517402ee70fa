"""Copying and looking up strings that mean nothing: what the useful skills are made of."""

from __future__ import annotations

import json

from examples.train_sprout.document import Document, Piece, Turn, plain
from examples.train_sprout.draw import Draw
from examples.train_sprout.forms import ask, with_system

REPEAT = ("Repeat: {}", "Say {}", "Copy this: {}", "Repeat after me: {}", "Echo {}")


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
            Draw.letters,
            Draw.company,
            Draw.date,
        )
    )
    return draw.split(lambda: make(draw)) if draw.chance(0.8) else str(draw.number())


def repeat(draw: Draw) -> Document:
    """The given text again."""
    text = " ".join(anything(draw) for _ in range(draw.between(1, 3)))
    return ask(draw, draw.of(REPEAT).format(text), text)


def look_up(draw: Draw) -> Document:
    """Several keys with values; the value of one, or of all in another order."""
    keys = list(dict.fromkeys(draw.word() for _ in range(draw.between(2, 8))))
    table = {key: anything(draw) for key in keys}
    form = draw.of(("{}: {}\n", "{} = {}\n", "{} -> {}\n", "The {} is {}.\n"))
    text = "".join(form.format(key, value) for key, value in table.items())
    if draw.chance(0.5):
        key = draw.of(keys)
        question = draw.of(("What is the {}?", "{}?", "Give the {}.", "What is {}?")).format(key)
        if draw.chance(0.5):
            turns = (Turn("user", f"{text}{question}"), Turn("assistant", table[key]))
            return with_system(draw, *turns)
        return plain(f"{text}{question}\nAnswer:", f" {table[key]}\n")
    pieces = [Piece(text)]
    for key in draw.some(keys, len(keys)):
        before, after = form.format(key, "\0").split("\0")
        pieces.append(Piece(before.rstrip(" ")))
        pieces.append(Piece(f" {table[key]}{after}", wanted=True))
    return Document(tuple(pieces), "\n")


def as_list(draw: Draw) -> Document:
    """Strings in a row, as a JSON list."""
    values = [anything(draw) for _ in range(draw.between(1, 5))]
    question = f"List as JSON: {', '.join(values)}"
    return ask(draw, question, json.dumps(values, ensure_ascii=False))


def again(draw: Draw) -> Document:
    """Lines of random words that begin again: everything after the first line is wanted."""
    line = " ".join(anything(draw) for _ in range(draw.between(4, 14)))
    return Document((Piece(f"{line}\n"), Piece(f"{line}\n", wanted=True)), "\n")
