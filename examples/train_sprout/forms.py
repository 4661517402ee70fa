"""The forms one question can take: chat or plain text, with or without a system message."""

from __future__ import annotations

from examples.train_sprout.document import Document, Piece, Turn, chat, plain, wanted
from examples.train_sprout.draw import Draw

SYSTEMS = (
    "You are a helpful assistant.",
    "You are sprout, a small language model.",
    "Answer briefly.",
)

# (before the question, between question and answer) of plain text, each on a line of its own.
PLAIN_FORMS = (("Q: ", "\nA:"), ("Question: ", "\nAnswer:"))


def with_system(draw: Draw, *turns: Turn) -> Document:
    """A conversation with one of the common system messages, or none."""
    if draw.chance(0.5):
        return chat(Turn("system", draw.of(SYSTEMS)), *turns)
    return chat(*turns)


def ask(draw: Draw, question: str, answer: str) -> Document:
    """One question with an answer of one line, in any form."""
    if draw.chance(0.5):
        return with_system(draw, Turn("user", question), Turn("assistant", answer))
    before, between = draw.of(PLAIN_FORMS)
    return plain(f"{before}{question}{between}", f" {answer}\n")


def few_shot(draw: Draw, examples: list[tuple[str, str]]) -> Document:
    """Several answered questions in plain text or in turns; all answers are wanted."""
    if draw.chance(0.2):
        turns = [
            turn
            for question, answer in examples
            for turn in (Turn("user", question), Turn("assistant", answer))
        ]
        return with_system(draw, *turns)
    before, between = draw.of(PLAIN_FORMS)
    gap = draw.of(("", "\n"))
    pieces: list[Piece] = []
    for position, (question, answer) in enumerate(examples):
        pieces.append(Piece(f"{gap if position else ''}{before}{question}{between}"))
        pieces += wanted(f" {answer}\n")
    return Document(tuple(pieces), "\n")
