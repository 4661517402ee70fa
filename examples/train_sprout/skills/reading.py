"""Answering from given passages: one, or the right one of several."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from examples.train_sprout.document import Document, Piece, Turn
from examples.train_sprout.draw import Draw
from examples.train_sprout.forms import with_system
from examples.train_sprout.words import DAYS, HOBBIES, JOBS, PETS


@dataclass(frozen=True, slots=True)
class Fact:
    """What a passage can say of its subject (`{0}`), and how one asks for the value (`{1}`)."""

    said: str
    asked: tuple[str, ...]
    draw: Callable[[Draw], str]


@dataclass(frozen=True, slots=True)
class Subject:
    """A kind of thing that passages are about."""

    draw: Callable[[Draw], str]
    facts: tuple[Fact, ...]


def who(draw: Draw) -> str:
    """Whom a passage is about, by full name or rarely by one."""
    return draw.name() if draw.chance(0.8) else draw.proper()


PERSON = Subject(
    who,
    (
        Fact("{0} is {1} years old.", ("How old is {0}?",), lambda d: str(d.between(2, 99))),
        Fact("{0} lives in {1}.", ("Where does {0} live?",), Draw.city),
        Fact(
            "{0} works as a {1}.",
            ("What is the job of {0}?", "What is {0}'s job?"),
            lambda d: d.of(JOBS),
        ),
        Fact("{0} works for {1}.", ("Who does {0} work for?",), Draw.company),
        Fact("The e-mail of {0} is {1}.", ("What is the e-mail of {0}?",), Draw.email),
        Fact("{0} has a {1}.", ("What pet does {0} have?",), lambda d: d.of(PETS)),
        Fact("{0} likes {1}.", ("What does {0} like?",), lambda d: d.of(HOBBIES)),
        Fact("{0} wrote the book {1}.", ("Which book did {0} write?",), Draw.title),
    ),
)
COMPANY = Subject(
    Draw.company,
    (
        Fact("{0} was founded by {1}.", ("Who founded {0}?",), Draw.name),
        Fact(
            "{0} was founded in the year {1}.",
            ("When was {0} founded?",),
            lambda d: str(d.number(1500, 2024)),
        ),
        Fact("{0} is based in {1}.", ("Where is {0} based?",), Draw.city),
        Fact(
            "{0} has {1} employees.",
            ("How many employees does {0} have?",),
            lambda d: str(d.number(2, 9_999)),
        ),
    ),
)
PLACE = Subject(
    lambda d: f"{d.of(('Mount', 'Lake'))} {d.proper()}",
    (
        Fact("{0} is close to {1}.", ("Which city is {0} near?",), Draw.city),
        Fact("{0} was mapped by {1}.", ("Who mapped {0}?",), Draw.name),
        Fact(
            "{0} has {1} visitors a year.",
            ("How many visitors does {0} have?",),
            lambda d: str(d.number(100, 9_999)),
        ),
    ),
)
THING = Subject(
    lambda d: f"the {d.of(('museum', 'library', 'shop', 'meeting'))} {d.proper()}",
    (
        Fact("{0} opens at {1}.", ("When does {0} open?",), Draw.time),
        Fact("{0} is on {1}.", ("On which day is {0}?",), lambda d: d.of(DAYS)),
        Fact("{0} is in room {1}.", ("In which room is {0}?",), lambda d: str(d.number(1, 999))),
        Fact("{0} costs {1} euros.", ("How much does {0} cost?",), lambda d: str(d.number(1, 999))),
        Fact("{0} is led by {1}.", ("Who leads {0}?",), Draw.name),
    ),
)
SUBJECTS = (PERSON, PERSON, COMPANY, PLACE, THING)

ORDERS = ("Answer the question from the text.", "Answer from the context.", "")
NUMBERINGS = ("[{}] ", "Document {}: ", "")


@dataclass(frozen=True, slots=True)
class Passage:
    """Sentences about one subject, and the questions they answer."""

    text: str
    questions: tuple[tuple[str, str], ...]


def capital(text: str) -> str:
    """The text with its first letter large."""
    return text[0].upper() + text[1:]


def passage(draw: Draw, sentences: int) -> Passage:
    """A passage of some sentences, each with the name of its subject."""
    subject = draw.of(SUBJECTS)
    name = subject.draw(draw)
    texts, questions = [], []
    for fact in draw.some(subject.facts, sentences):
        value = fact.draw(draw)
        texts.append(capital(fact.said.format(name, value)))
        questions.append((draw.of(fact.asked).format(name), value))
    return Passage(" ".join(texts), tuple(questions))


def answer_from_passages(draw: Draw) -> Document:
    """One to four short passages, then one to four questions in lines or in turns."""
    count = draw.between(1, 4)
    made = [
        passage(draw, draw.between(2, 3) if count == 1 else draw.between(1, 2))
        for _ in range(count)
    ]
    questions = [pair for one in made for pair in one.questions]
    asked = draw.some(questions, min(len(questions), draw.between(1, 4)))
    numbering = draw.of(NUMBERINGS)
    texts = "\n".join(numbering.format(i) + one.text for i, one in enumerate(made, start=1))
    order = draw.of(ORDERS)
    body = f"{order}\n{texts}\n" if order else f"{texts}\n"
    if draw.chance(0.5):
        turns = []
        for question, answer in asked:
            turns += [Turn("user", f"{body}Question: {question}"), Turn("assistant", answer)]
            body = ""
        return with_system(draw, *turns)
    pieces = [Piece(body)]
    for question, answer in asked:
        pieces += [Piece(f"Question: {question}\nAnswer:"), Piece(f" {answer}\n", wanted=True)]
    return Document(tuple(pieces), "\n")
