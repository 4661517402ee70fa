"""The forms one question can take: chat or plain text, with or without a system message."""

from __future__ import annotations

from examples.train_sprout.document import Document, Piece, Turn, chat, plain, wanted
from examples.train_sprout.draw import Draw

SYSTEMS = (
    "You are a helpful assistant.",
    "You are sprout, a small language model.",
    "You are a helpful assistant. Answer briefly.",
    "Answer the question.",
    "You answer in one short line.",
    "Be brief and correct.",
    "You are an expert assistant.",
)

# (before the question, between question and answer) of plain text, all on lines of their own.
PLAIN_FORMS = (
    ("Q: ", "\nA:"),
    ("Q: ", "\nA:"),
    ("Question: ", "\nAnswer:"),
    ("Question: ", "\nAnswer:"),
    ("", "\nAnswer:"),
    ("", "\nA:"),
    ("User: ", "\nAssistant:"),
    ("Input: ", "\nOutput:"),
)


def with_system(draw: Draw, *turns: Turn) -> Document:
    """A conversation with one of the common system messages, or none."""
    if draw.chance(0.5):
        return chat(Turn("system", draw.of(SYSTEMS)), *turns)
    return chat(*turns)


def ask(draw: Draw, question: str, answer: str) -> Document:
    """One question with an answer of one line, in any form."""
    if draw.chance(0.5):
        return with_system(draw, Turn("user", question), Turn("assistant", answer))
    if draw.chance(0.1):
        return plain(f"{question}\n", f"{answer}\n")
    before, between = draw.of(PLAIN_FORMS)
    return plain(f"{before}{question}{between}", f" {answer}\n")


def few_shot(draw: Draw, examples: list[tuple[str, str]], heading: str | None = None) -> Document:
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
    pieces = [Piece(f"{heading}\n{gap}")] if heading and draw.chance(0.7) else []
    for position, (question, answer) in enumerate(examples):
        pieces.append(Piece(f"{gap if position else ''}{before}{question}{between}"))
        pieces += wanted(f" {answer}\n")
    return Document(tuple(pieces), "\n")
