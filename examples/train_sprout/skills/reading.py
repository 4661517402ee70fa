"""Answering from given passages: one, or the right one of several."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from examples.train_sprout.document import Document, Turn, plain
from examples.train_sprout.draw import Draw
from examples.train_sprout.forms import with_system
from examples.train_sprout.words import COLOURS, DAYS, HOBBIES, ITEMS, JOBS, PETS


@dataclass(frozen=True, slots=True)
class Fact:
    """What a passage can say of its subject (`{0}`), and how one asks for the value (`{1}`)."""

    said: tuple[str, ...]
    asked: tuple[str, ...]
    draw: Callable[[Draw], str]


@dataclass(frozen=True, slots=True)
class Subject:
    """A kind of thing that passages are about."""

    draw: Callable[[Draw], str]
    facts: tuple[Fact, ...]


PERSON = Subject(
    Draw.name,
    (
        Fact(
            ("{0} is {1} years old.", "{0} is {1} years of age."),
            ("How old is {0}?", "What is the age of {0}?"),
            lambda d: str(d.between(2, 99)),
        ),
        Fact(
            ("{0} lives in {1}.", "{0} has moved to {1}."),
            ("Where does {0} live?", "In which city does {0} live?"),
            Draw.city,
        ),
        Fact(("{0} was born in {1}.",), ("Where was {0} born?",), Draw.city),
        Fact(
            ("{0} works as a {1}.", "{0} is a {1}."),
            ("What is the job of {0}?", "What does {0} do for a living?", "What is {0}'s job?"),
            lambda d: d.of(JOBS),
        ),
        Fact(
            ("{0} works for {1}.", "{0} works at {1}."),
            ("Who does {0} work for?", "Where does {0} work?"),
            Draw.company,
        ),
        Fact(
            ("The e-mail address of {0} is {1}.", "One can write to {0} at {1}."),
            ("What is the e-mail address of {0}?", "What is {0}'s e-mail?"),
            Draw.email,
        ),
        Fact(
            ("{0} has a {1}.", "{0} keeps a {1}."),
            ("What pet does {0} have?", "Which animal does {0} keep?"),
            lambda d: d.of(PETS),
        ),
        Fact(
            ("{0} likes {1}.", "The hobby of {0} is {1}."),
            ("What does {0} like?", "What is the hobby of {0}?"),
            lambda d: d.of(HOBBIES),
        ),
        Fact(
            ("{0} is married to {1}.",),
            ("Who is {0} married to?", "Who is married to {0}?"),
            Draw.name,
        ),
        Fact(
            ("{0} wrote the book {1}.", "{0} is the author of {1}."),
            ("Which book did {0} write?", "What did {0} write?"),
            Draw.title,
        ),
    ),
)
COMPANY = Subject(
    Draw.company,
    (
        Fact(
            ("{0} was founded by {1}.", "The founder of {0} is {1}."),
            ("Who founded {0}?", "Who is the founder of {0}?"),
            Draw.name,
        ),
        Fact(
            ("{0} was founded in the year {1}.", "{0} started in {1}."),
            ("When was {0} founded?", "In which year was {0} founded?"),
            lambda d: str(d.number(1500, 2024)),
        ),
        Fact(
            ("{0} is based in {1}.", "The head office of {0} is in {1}."),
            ("Where is {0} based?", "In which city is {0} based?"),
            Draw.city,
        ),
        Fact(
            ("{0} has {1} employees.", "{1} people work at {0}."),
            ("How many employees does {0} have?", "How many people work at {0}?"),
            lambda d: str(d.number(2, 99_999)),
        ),
        Fact(
            ("{0} sells {1}s.", "{0} makes {1}s."),
            ("What does {0} make?", "What does {0} sell?"),
            lambda d: d.of(ITEMS),
        ),
    ),
)
PLACE = Subject(
    lambda d: f"{d.of(('Mount', 'Lake', 'the village of', 'the river'))} {d.proper()}",
    (
        Fact(
            ("{0} lies near {1}.", "{0} is close to {1}."),
            ("Which city is {0} near?", "What is {0} close to?"),
            Draw.city,
        ),
        Fact(
            ("{0} was first described by {1}.", "{0} was mapped by {1}."),
            ("Who described {0}?", "Who mapped {0}?"),
            Draw.name,
        ),
        Fact(
            ("In {1}, {0} was struck by a storm.", "There was a fire at {0} in {1}."),
            ("In which year did it happen at {0}?",),
            lambda d: str(d.number(1500, 2024)),
        ),
        Fact(
            ("{0} has {1} visitors a year.",),
            ("How many visitors does {0} have?", "How many people visit {0}?"),
            lambda d: str(d.number(100, 99_999)),
        ),
    ),
)
THING = Subject(
    lambda d: (
        f"the {d.of(('museum', 'library', 'shop', 'meeting', 'course', 'train'))} {d.proper()}"
    ),
    (
        Fact(
            ("{0} opens at {1}.", "{0} begins at {1}."),
            ("When does {0} open?", "At what time does {0} begin?"),
            Draw.time,
        ),
        Fact(
            ("{0} is on {1}.", "{0} takes place on {1}."),
            ("On which day is {0}?", "When is {0}?"),
            lambda d: d.of(DAYS),
        ),
        Fact(
            ("{0} is in room {1}.", "One finds {0} in room {1}."),
            ("In which room is {0}?", "Which room is {0} in?"),
            lambda d: str(d.number(1, 999)),
        ),
        Fact(
            ("{0} costs {1} euros.", "The price of {0} is {1} euros."),
            ("How much does {0} cost?", "What is the price of {0}?"),
            lambda d: str(d.number(1, 9_999)),
        ),
        Fact(
            ("{0} is led by {1}.", "{1} is in charge of {0}."),
            ("Who leads {0}?", "Who is in charge of {0}?"),
            Draw.name,
        ),
        Fact(
            ("The door of {0} is {1}.", "{0} is painted {1}."),
            ("What colour is {0}?", "Which colour does {0} have?"),
            lambda d: d.of(COLOURS),
        ),
    ),
)
SUBJECTS = (PERSON, PERSON, COMPANY, PLACE, THING)

UNKNOWN = "Not in the text."
ORDERS = (
    "Answer the question from the text.",
    "Use the passages to answer.",
    "Answer from the context.",
    "Read the documents and answer the question.",
    "Answer using only the given text.",
    "",
)
NUMBERINGS = ("[{}] ", "Passage {}: ", "Document {}: ", "Document {}:\n", "{}. ", "- ")


@dataclass(frozen=True, slots=True)
class Passage:
    """Sentences about one subject, and the questions they answer."""

    text: str
    questions: tuple[tuple[str, str], ...]


def capital(text: str) -> str:
    """The text with its first letter large."""
    return text[0].upper() + text[1:]


def passage(draw: Draw, sentences: int) -> tuple[Passage, str]:
    """A passage of some sentences, and a question about its subject that it does not answer."""
    subject = draw.of(SUBJECTS)
    name = subject.draw(draw)
    *told, untold = draw.some(subject.facts, min(sentences + 1, len(subject.facts)))
    texts, questions = [], []
    for fact in told:
        value = fact.draw(draw)
        texts.append(capital(draw.of(fact.said).format(name, value)))
        questions.append((draw.of(fact.asked).format(name), value))
    text = " ".join(texts)
    if subject is PERSON and draw.chance(0.3):
        text = pronouns(draw, texts, name)
    return Passage(text, tuple(questions)), draw.of(untold.asked).format(name)


def pronouns(draw: Draw, texts: list[str], name: str) -> str:
    """The sentences with a pronoun for the name after the first, where it stands in front."""
    pronoun = draw.of(("She", "He"))
    rest = [pronoun + t.removeprefix(name) if t.startswith(name) else t for t in texts[1:]]
    return " ".join((texts[0], *rest))


def answer_from_passages(draw: Draw) -> Document:
    """One to four passages and a question that one of them answers, rarely none."""
    return answer_from(draw, draw.of((1, 1, 2, 3, 3, 4)))


def answer_from_many_passages(draw: Draw) -> Document:
    """The same with five passages and more: up to about a thousand tokens."""
    return answer_from(draw, draw.of((5, 6, 7, 8, 10, 12, 16, 20)))


def answer_from(draw: Draw, count: int) -> Document:
    """`count` passages and a question."""
    made = [
        passage(draw, draw.between(2, 4) if count == 1 else draw.between(1, 3))
        for _ in range(count)
    ]
    chosen, untold = draw.of(made)
    question, answer = draw.of(chosen.questions)
    if draw.chance(0.07):
        question, answer = untold, UNKNOWN
    numbering = (
        draw.of(NUMBERINGS)
        if count > 1
        else draw.of(("", "Context: ", "Text: ", "Passage: ", "Context:\n"))
    )
    gap = draw.of(("\n", "\n", "\n\n"))
    texts = gap.join(numbering.format(i + 1) + p.text for i, (p, _) in enumerate(made))
    heading = draw.of(("Context:\n", "Documents:\n", "", "")) if count > 1 else ""
    order = draw.of(ORDERS)
    asked = draw.of(("Question: ", "Question: ", "Q: ", ""))
    body = f"{heading}{texts}{gap}{asked}{question}"
    body = f"{order}{gap}{body}" if order else body
    if draw.chance(0.5):
        return with_system(draw, Turn("user", body), Turn("assistant", answer))
    return plain(f"{body}\n{'A:' if asked == 'Q: ' else 'Answer:'}", f" {answer}\n")


def questions_in_turn(draw: Draw) -> Document:
    """A passage first, then several questions about it, each in its turn."""
    text, _ = passage(draw, 4)
    asked = draw.some(text.questions, min(len(text.questions), draw.between(2, 3)))
    (first, answer), *rest = asked
    turns = [Turn("user", f"{text.text}\n{first}"), Turn("assistant", answer)]
    for question, answer in rest:
        turns += [Turn("user", question), Turn("assistant", answer)]
    return with_system(draw, *turns)
