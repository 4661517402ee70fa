"""Judging an answer: a verdict and a score from 1 to 5."""

from __future__ import annotations

import json

from examples.train_sprout.document import Document, Turn, plain
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
ORDERS = (
    "Judge the answer.",
    "Is the answer good or bad?",
    "Rate the answer from 1 to 5.",
    "Judge the answer: good or bad, and a score from 1 to 5.",
    "",
)
RELATIONS = ("capital", "country", "currency", "continent")


def graded(draw: Draw) -> tuple[str, str, int]:
    """A question, an answer, and its score: 5 right, 3 unsure, 2 wrong, 1 beside the point."""
    question, right = draw.of(SMALL_FACTS) if draw.chance(0.25) else pair(draw, draw.of(RELATIONS))
    score = draw.of((5, 5, 5, 3, 2, 2, 1))
    if score == 3:
        return question, draw.of(UNSURE), score
    if score == 1:
        return question, draw.of(OFF_TOPIC), score
    answer = right if score == 5 else wrong(draw, question, right)
    answer = draw.of((answer, f"{answer}.", f"It is {answer}.", f"The answer is {answer}."))
    return question, answer, score


def wrong(draw: Draw, question: str, right: str) -> str:
    """A false answer of the same kind as the right one."""
    for column in ("capital", "name", "currency", "continent"):
        values: list[str] = sorted({getattr(country, column) for country in COUNTRIES})
        if right in values:
            return draw.of([value for value in values if value != right])
    same = [a for q, a in SMALL_FACTS if a != right and q.split()[:2] == question.split()[:2]]
    return draw.of(same or [a for _, a in SMALL_FACTS if a != right])


def judged(draw: Draw) -> Document:
    """Verdict and score in lines, in JSON, or one of them alone."""
    question, answer, score = graded(draw)
    verdict = "good" if score >= 4 else "bad"
    shown = f"Question: {question}\nAnswer: {answer}"
    order = draw.of(ORDERS)
    body = draw.of((f"{order}\n{shown}", f"{shown}\n{order}")) if order else shown
    form = draw.rng.random()
    if form < 0.25:
        wanted = json.dumps({"verdict": verdict, "score": score})
        body += "\nAnswer as JSON with the keys verdict and score."
        if draw.chance(0.5):
            return plain(f"{body}\nJSON:", f" {wanted}\n")
        return with_system(draw, Turn("user", body), Turn("assistant", wanted))
    if form < 0.45:
        return plain(f"{body}\nScore:", f" {score}\n")
    if form < 0.75:
        return plain(f"{body}\nVerdict:", f" {verdict}\nScore: {score}\n", stop="")
    order = "Judge the answer: good or bad, and a score from 1 to 5."
    return with_system(
        draw,
        Turn("user", f"{order}\n{shown}"),
        Turn("assistant", f"Verdict: {verdict}\nScore: {score}"),
    )
