"""What the variables of a branch hold: plain values, slots, and what is made of slots once they have ended."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from branchwork.lang.cursor import Piece, Said
from branchwork.lang.ir import Const, RoleMark
from branchwork.lang.slot import Slot
from branchwork.runtime.wire.messages import ChatFormat


class Span:
    """The pieces appended between two points; its value is their text."""

    __slots__ = ("pieces",)

    def __init__(self, pieces: Iterable[Piece] = ()) -> None:
        self.pieces: list[Piece] = list(pieces)


class Gathered:
    """What a variable holds in each branch of a join; its value is a list."""

    __slots__ = ("variables",)

    def __init__(self, variables: Sequence[Any]) -> None:
        self.variables = variables


class Derived:
    """A variable that is made from a slot's text."""

    __slots__ = ("make", "slot")

    def __init__(self, slot: Slot, make: Callable[[str], str]) -> None:
        self.slot = slot
        self.make = make


def slots_of(variable: Any) -> Iterator[Slot]:
    """The slots that must have ended before `value_of(variable)` can be told."""
    if isinstance(variable, Slot):
        yield variable
    elif isinstance(variable, Derived):
        yield variable.slot
    elif isinstance(variable, Span):
        yield from slots_in(variable.pieces)
    elif isinstance(variable, Gathered):
        for each in variable.variables:
            yield from slots_of(each)


def slots_in(pieces: Iterable[Piece]) -> Iterator[Slot]:
    """The slots whose answers are part of the text of `pieces`."""
    for piece in pieces:
        if isinstance(piece, Slot):
            yield piece
        elif isinstance(piece, Said):
            yield piece.slot


def value_of(variable: Any, chat_format: ChatFormat) -> Any:
    """The variable's value, all of its slots having ended well. Raises what a slot's decoder raises."""
    if isinstance(variable, Slot):
        return variable.value
    if isinstance(variable, Derived):
        return variable.make(variable.slot.text)
    if isinstance(variable, Span):
        return render(variable.pieces, chat_format)
    if isinstance(variable, Gathered):
        return [value_of(each, chat_format) for each in variable.variables]
    return variable


def render(pieces: Iterable[Piece], chat_format: ChatFormat) -> str:
    """The text of `pieces`, with open slots as far as they have come."""
    out: list[str] = []
    for piece in pieces:
        if isinstance(piece, Const):
            out.append(piece.text)
        elif isinstance(piece, Slot):
            out.append(piece.spoken)
        elif isinstance(piece, Said):
            out.append(piece.slot.spoken)
        elif isinstance(piece, RoleMark):
            sides = chat_format.begin if piece.edge == "begin" else chat_format.end
            out.append(sides[piece.role])
    return "".join(out)
