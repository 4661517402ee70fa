"""Questions with closed answers: yes or no, one of several letters, a card of given keys."""

from __future__ import annotations

import json

from examples.train_sprout.document import Document, Piece, Turn, plain
from examples.train_sprout.draw import Draw
from examples.train_sprout.forms import ask, with_system
from examples.train_sprout.skills.facts import GEOGRAPHY, pair
from examples.train_sprout.words import COUNTRIES, Country

# (statement, question, column that it starts from, column that it speaks of)
STATEMENTS = (
    ("{1} is the capital of {0}.", "Is {1} the capital of {0}?", "name", "capital"),
    ("The capital of {0} is {1}.", "Is the capital of {0} {1}?", "name", "capital"),
    ("The currency of {0} is the {1}.", "Is the {1} the currency of {0}?", "name", "currency"),
    ("{0} is in {1}.", "Is {0} in {1}?", "name", "continent"),
    ("{0} is in {1}.", "Is {0} in {1}?", "capital", "name"),
    ("People in {0} speak {1}.", "Do people in {0} speak {1}?", "name", "language"),
)
YES_OR_NO = ("", "", " Answer yes or no.", " Yes or no?")
LETTERS = "ABCD"
KEYS = ("country", "capital", "currency", "continent", "language")
CARD_ASKED = (
    "Give the facts about {} as JSON.",
    "Describe {} as JSON.",
    "Write a JSON record about {}.",
    "Give me information about {} as JSON.",
    "{} as JSON",
)


def column(country: Country, key: str) -> str:
    """A country's value under the key of a card."""
    value: str = getattr(country, "name" if key == "country" else key)
    return value


def values_of(key: str) -> list[str]:
    """All values of a column, sorted."""
    return sorted({column(country, key) for country in COUNTRIES})


def statement(draw: Draw) -> tuple[str, str, bool]:
    """Something about a country as a statement and as a question, and whether it is true."""
    said, asked, given, wanted = draw.of(STATEMENTS)
    country = draw.of(COUNTRIES)
    right = column(country, wanted)
    true = draw.chance(0.5)
    value = right if true else draw.of([v for v in values_of(wanted) if v != right])
    texts = (text.format(column(country, given), value) for text in (said, asked))
    return next(texts), next(texts), true


def comparison(draw: Draw) -> tuple[str, str, bool]:
    """A comparison of two numbers."""
    a, b = draw.split(lambda: (draw.between(0, 99), draw.between(0, 99)))
    word, true = draw.of((("greater", a > b), ("less", a < b)))
    return f"{a} is {word} than {b}.", f"Is {a} {word} than {b}?", true


def yes_or_no(draw: Draw) -> Document:
    """A question with yes or no, or a statement with true or false."""
    said, asked, true = statement(draw) if draw.chance(0.75) else comparison(draw)
    if draw.chance(0.65):
        return ask(draw, asked + draw.of(YES_OR_NO), "yes" if true else "no")
    question = draw.of(("True or false? {}", "{} True or false?", "Statement: {} True or false?"))
    return ask(draw, question.format(said), "true" if true else "false")


def multiple_choice(draw: Draw) -> Document:
    """A question with lettered answers: the letter of the right one."""
    relation = draw.of([name for name in GEOGRAPHY if name != "currency's country"])
    question, right = pair(draw, relation)
    others = [v for v in values_of(relation) if v != right]
    options = [right, *draw.some(others, draw.between(1, 3))]
    draw.rng.shuffle(options)
    form = draw.of(("{}. {}", "{}) {}", "({}) {}"))
    listed = "\n".join(form.format(*row) for row in zip(LETTERS, options, strict=False))
    letter = LETTERS[options.index(right)]
    if draw.chance(0.5):
        turns = (Turn("user", f"{question}\n{listed}"), Turn("assistant", letter))
        return with_system(draw, *turns)
    before = draw.of(("Question: ", "Q: ", ""))
    return plain(f"{before}{question}\n{listed}\nAnswer:", f" {letter}\n")


def country_card(draw: Draw) -> Document:
    """What is known of a country, as JSON of given keys or as lines to fill in."""
    country = draw.of(COUNTRIES)
    keys = ["country", *draw.some(KEYS[1:], draw.between(1, 4))]
    if draw.chance(0.35):
        pieces = []
        for position, key in enumerate(keys):
            given = f"{key.capitalize()}:"
            text = f" {column(country, key)}\n"
            if position == 0:
                given, text = given + text, ""
            pieces.append(Piece(given))
            if text:
                pieces.append(Piece(text, wanted=True))
        return Document(tuple(pieces), "\n")
    question = draw.of(CARD_ASKED).format(country.name)
    listed = ", ".join(keys)
    question += draw.of((f"\nKeys: {listed}", f" Keys: {listed}.", f"\nFields: {listed}"))
    answer = json.dumps({key: column(country, key) for key in keys})
    return ask(draw, question, answer)
