"""Tree of thought on small arithmetic: propose a step, and value what is left.

The puzzle: from some small numbers, reach a goal. A step joins two of them.
"""

from __future__ import annotations

from examples.train_sprout.document import CUT, Document, plain
from examples.train_sprout.draw import Draw


def joined(a: int, b: int, sign: str) -> int:
    """The number that a step makes of two."""
    return a + b if sign == "+" else abs(a - b)


def step(a: int, b: int, sign: str, rest: list[int]) -> str:
    """A step as it is written: the sum, and the numbers that are left."""
    first, second = (a, b) if sign == "+" else (max(a, b), min(a, b))
    left = " ".join(str(n) for n in (*rest, joined(a, b, sign)))
    return f"{first} {sign} {second} ={CUT} {joined(a, b, sign)}{CUT} (left: {left})"


def propose(draw: Draw) -> Document:
    """The first two of three digits joined by the sign that a word names."""
    a, b, *rest = draw.some(range(1, 10), 3)
    word, sign = draw.of((("Add", "+"), ("Subtract", "-")))
    asked = f"Numbers: {' '.join(map(str, (a, b, *rest)))}\n{word} the first two numbers.\nStep:"
    return plain(asked, f" {step(a, b, sign, rest)}\n")


def value(draw: Draw) -> Document:
    """Whether two numbers can reach the goal in one step, each step beside the goal."""
    a, b = draw.between(1, 9), draw.between(1, 18)
    larger, smaller = max(a, b), min(a, b)
    goal = draw.of((a + b, larger - smaller, draw.between(0, 27), draw.between(0, 27)))
    found = [a + b, larger - smaller]
    says = ["yes" if number == goal else "no" for number in found]
    worked = (
        f"{a} + {b} ={CUT} {found[0]}{CUT} {says[0]}, "
        f"{larger} - {smaller} ={CUT} {found[1]}{CUT} {says[1]}:"
        f"{CUT} {'sure' if goal in found else 'impossible'}"
    )
    asked = f"Numbers: {a} {b}\nGoal: {goal}\nCan one step reach the goal?\nAnswer:"
    return plain(asked, f" {worked}\n")


def puzzle(draw: Draw) -> Document:
    """One of the two halves of the search."""
    return propose(draw) if draw.chance(0.5) else value(draw)
