"""Several tasks of different kinds in one conversation."""

from __future__ import annotations

from collections.abc import Callable

from examples.train_sprout.document import IM_START, Document, Piece
from examples.train_sprout.draw import Draw
from examples.train_sprout.skills import arithmetic, classify, facts, records

TASKS = (
    facts.geography,
    facts.small_fact,
    arithmetic.sums,
    records.record_to_json,
    classify.sentiment,
    classify.topic,
)


def turns(draw: Draw, task: Callable[[Draw], Document]) -> list[Piece]:
    """A task in chat form, without a system message."""
    while True:
        document = task(draw)
        if document.prompt.startswith(f"{IM_START}user"):
            return list(document.pieces)


def several_tasks(draw: Draw) -> Document:
    """Two or three tasks after one another."""
    pieces = turns(draw, draw.of(TASKS))
    for _ in range(draw.between(1, 2)):
        pieces += [Piece("\n"), *turns(draw, draw.of(TASKS))]
    return Document(tuple(pieces))
