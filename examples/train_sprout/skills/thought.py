"""Tree of thought on small arithmetic: propose a step, and value what is left.

The puzzle: from some small numbers, reach a goal. A step joins two of them.
"""

from __future__ import annotations

from examples.train_sprout.document import CUT, Document, Turn, plain
from examples.train_sprout.draw import Draw
from examples.train_sprout.forms import with_system


def joined(a: int, b: int, sign: str) -> int:
    """The number that a step makes of two."""
    return a + b if sign == "+" else abs(a - b)


def step(a: int, b: int, sign: str, rest: list[int]) -> str:
    """A step as it is written: the sum, and the numbers that are left."""
    first, second = (a, b) if sign == "+" else (max(a, b), min(a, b))
    left = " ".join(str(n) for n in (*rest, joined(a, b, sign)))
    return f"{first} {sign} {second} ={CUT} {joined(a, b, sign)}{CUT} (left: {left})"


def numbers(draw: Draw, count: int) -> list[int]:
    """Small different numbers."""
    return draw.some(range(1, 13), count)


def propose(draw: Draw) -> Document:
    """Every step on the first two numbers, or the step that a sign names."""
    a, b, *rest = numbers(draw, draw.between(2, 3))
    shown = " ".join(str(n) for n in (a, b, *rest))
    sign = draw.of(("+", "-"))
    word = "Add" if sign == "+" else "Subtract"
    if draw.chance(0.5):
        return plain(
            f"Numbers: {shown}\n{word} the first two numbers.\nStep:",
            f" {step(a, b, sign, rest)}\n",
        )
    both = f"{step(a, b, '+', rest)}\n{step(a, b, '-', rest)}"
    asked = f"Numbers: {shown}\nPropose the possible steps with the first two numbers."
    if draw.chance(0.5):
        return with_system(draw, Turn("user", asked), Turn("assistant", both))
    return plain(f"{asked}\nSteps:\n", f"{both}\n", stop="")


def value(draw: Draw) -> Document:
    """Whether two numbers can reach the goal in one step, with the steps written."""
    a, b = numbers(draw, 2)
    sums = [joined(a, b, sign) for sign in "+-"]
    goal = draw.of(sums) if draw.chance(0.5) else draw.between(0, 24)
    verdict = "sure" if goal in sums else "impossible"
    larger, smaller = max(a, b), min(a, b)
    worked = (
        f"{a} + {b} ={CUT} {sums[0]},{CUT} {larger} - {smaller} ={CUT} {sums[1]}:{CUT} {verdict}"
    )
    asked = f"Numbers: {a} {b}\nGoal: {goal}\nCan one step reach the goal?"
    if draw.chance(0.4):
        return with_system(draw, Turn("user", asked), Turn("assistant", worked))
    return plain(f"{asked}\n{draw.of(('Answer:', 'Value:'))}", f" {worked}\n")


def puzzle(draw: Draw) -> Document:
    """One of the two halves of the search."""
    return propose(draw) if draw.chance(0.5) else value(draw)
