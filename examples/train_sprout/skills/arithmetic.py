"""Sums and differences of two-digit numbers with written steps, and a table of small ones."""

from __future__ import annotations

from examples.train_sprout.document import CUT, Document, Piece
from examples.train_sprout.draw import Draw
from examples.train_sprout.forms import ask, few_shot

ASKED = ("What is {0} {sign} {1}?", "{0} {sign} {1} = ?", "Compute {0} {sign} {1}.")
HINTS = ("", "", " Think step by step.")


def added(a: int, b: int) -> str:
    """The written steps of a + b, with a cut around each result."""
    units = a % 10 + b % 10
    carry = units // 10
    tens = a // 10 + b // 10 + carry
    return (
        f"Units: {a % 10} + {b % 10} ={CUT} {units}, carry {carry}.{CUT} "
        f"Tens: {a // 10} + {b // 10} + {carry} ={CUT} {tens}.{CUT} Answer: {a + b}"
    )


def subtracted(a: int, b: int) -> str:
    """The written steps of a - b for a >= b, cut likewise; what to borrow stands before the units."""
    borrow = int(a % 10 < b % 10)
    units = a % 10 + 10 * borrow
    return (
        f"Units: {a % 10} - {b % 10}, borrow{CUT} {borrow},{CUT} "
        f"{units} - {b % 10} ={CUT} {units - b % 10}.{CUT} "
        f"Tens: {a // 10} - {b // 10} - {borrow} ={CUT} {a // 10 - b // 10 - borrow}.{CUT} "
        f"Answer: {a - b}"
    )


def operands(draw: Draw, *, minus: bool) -> tuple[int, int]:
    """Two numbers under 100, at least one of two digits; the larger first for a difference."""

    def make() -> tuple[int, int]:
        a, b = draw.between(10, 99), draw.between(10 if draw.chance(0.9) else 0, 99)
        if minus:
            return max(a, b), min(a, b)
        return (a, b) if draw.chance(0.95) else (b, a)

    return draw.pair(make)


def worked(draw: Draw) -> tuple[str, str]:
    """A question with two-digit numbers and its steps."""
    minus = draw.chance(0.5)
    a, b = operands(draw, minus=minus)
    question = draw.of(ASKED).format(a, b, sign="-" if minus else "+")
    return question + draw.of(HINTS), subtracted(a, b) if minus else added(a, b)


def sums(draw: Draw) -> Document:
    """One worked sum or difference."""
    return ask(draw, *worked(draw))


def few_shot_sums(draw: Draw) -> Document:
    """Worked examples, then one more to work."""
    return few_shot(draw, [worked(draw) for _ in range(draw.between(2, 3))])


def table_line(draw: Draw) -> tuple[str, int]:
    """One of the small sums that written steps are made of, and its result."""
    a, b, carry = draw.between(0, 18), draw.between(0, 9), draw.between(0, 1)
    if draw.chance(0.3):
        digit = a % 10
        return f"{digit} + {b} + {carry} =", digit + b + carry
    if draw.chance(0.5):
        return f"{a} + {b} =", a + b
    if draw.chance(0.4) and a >= b + carry:
        return f"{a} - {b} - {carry} =", a - b - carry
    return f"{max(a, b)} - {min(a, b)} =", abs(a - b)


def table(draw: Draw) -> Document:
    """Many small sums under one another."""
    pieces = []
    for _ in range(draw.between(6, 12)):
        line, result = table_line(draw)
        pieces += [Piece(line), Piece(f" {result}\n", wanted=True)]
    return Document(tuple(pieces), "\n")
