"""Judging an answer: what was expected, a verdict, and a score from 1 to 5."""

from __future__ import annotations

from collections.abc import Callable

from examples.train_sprout.document import CUT, Document, Piece, Turn, plain, wanted
from examples.train_sprout.draw import Draw
from examples.train_sprout.forms import with_system
from examples.train_sprout.skills.facts import SMALL_FACTS, pair
from examples.train_sprout.words import COUNTRIES

OFF_TOPIC = (
    "I like pizza.",
    "The weather is nice.",
    "Bananas are yellow.",
    "My dog is happy.",
    "It is late.",
    "Look, a bird!",
)
UNSURE = ("I do not know.", "I am not sure.", "Maybe.", "Who knows?")
RELATIONS = ("capital", "country", "currency", "continent")


def graded(draw: Draw, right: str, wrong: Callable[[], str]) -> tuple[str, int]:
    """An answer and its score: 5 right, 3 unsure, 2 wrong, 1 beside the point."""
    score = draw.of((5, 5, 5, 3, 2, 2, 1))
    if score == 3:
        return draw.of(UNSURE), score
    if score == 1:
        return draw.of(OFF_TOPIC), score
    answer = right if score == 5 else wrong()
    return draw.of((answer, f"It is {answer}.")), score


def false_answer(draw: Draw, question: str, right: str) -> str:
    """A false answer of the same kind as the right one."""
    for column in ("capital", "name", "currency", "continent"):
        values: list[str] = sorted({getattr(country, column) for country in COUNTRIES})
        if right in values:
            return draw.of([value for value in values if value != right])
    same = [a for q, a in SMALL_FACTS if a != right and q.split()[:2] == question.split()[:2]]
    return draw.of(same or [a for _, a in SMALL_FACTS if a != right])


def judged_at_once(draw: Draw) -> Document:
    """What was expected, the verdict and the score, all written as JSON."""
    question, right = draw.of(SMALL_FACTS) if draw.chance(0.25) else pair(draw, draw.of(RELATIONS))
    answer, score = graded(draw, right, lambda: false_answer(draw, question, right))
    asked = (
        f"Judge the answer.\nQuestion: {question}\nAnswer: {answer}\n"
        "Answer as JSON with the keys expected, verdict and score."
    )
    verdict = "good" if score == 5 else "bad"
    json = f'{{"expected": "{right}{CUT}", "verdict": "{verdict}{CUT}", "score": {score}}}'
    if draw.chance(0.5):
        return plain(f"{asked}\nJSON:", f" {json}\n")
    return with_system(draw, Turn("user", asked), Turn("assistant", json))


def verdict(question: str, expected: Piece, answer: str, score: int) -> Document:
    """The question, what is expected, then the answer: verdict and score as JSON."""
    word = "good" if score == 5 else "bad"
    return Document(
        (
            Piece(f"Judge the answer.\nQuestion: {question}\nExpected:"),
            expected,
            Piece(f"Answer: {answer}\nJSON:"),
            *wanted(f' {{"verdict": "{word}{CUT}", "score": {score}}}\n'),
        ),
        "\n",
    )


def judged(draw: Draw) -> Document:
    """What is expected comes first, so that the verdict is a comparison."""
    question, right = draw.of(SMALL_FACTS) if draw.chance(0.25) else pair(draw, draw.of(RELATIONS))
    answer, score = graded(draw, right, lambda: false_answer(draw, question, right))
    return verdict(question, Piece(f" {right}\n", wanted=True), answer, score)


def judged_by_reference(draw: Draw) -> Document:
    """The same with an expected answer that nobody knows: no verdict can be learned by heart."""
    kinds: tuple[Callable[[], str], ...] = (
        draw.word,
        draw.proper,
        draw.city,
        draw.name,
        lambda: str(draw.number()),
    )
    make = draw.of(kinds)
    right = make()
    answer, score = graded(draw, right, make)
    if answer in (right, f"It is {right}."):
        score = 5
    return verdict(f"What is the {draw.word()}?", Piece(f" {right}\n"), answer, score)
