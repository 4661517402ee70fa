"""Sets of numbers: intersection, difference from everything, and exact bounds."""

from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from math import ceil, floor, gcd, lcm

from branchwork.runtime.grammar.json_schema.shape import Number

# A bounded set of multiples up to this size is listed, so that its emptiness and its members are known.
_LISTED = 64


def meet_numbers(a: Number, b: Number) -> Number | None:
    """Numbers that are in both, or None if there are none."""
    if a.values is not None or b.values is not None:
        finite, other = (a, b) if a.values is not None else (b, a)
        assert finite.values is not None
        return _finite(frozenset(value for value in finite.values if other.contains(value)))
    low, low_open = _tighter((a.low, a.low_open), (b.low, b.low_open), 1)
    high, high_open = _tighter((a.high, a.high_open), (b.high, b.high_open), -1)
    step = b.step if a.step is None else a.step if b.step is None else _common(a.step, b.step)
    return drawn_in(Number(low, low_open, high, high_open, step, a.off_steps | b.off_steps))


def drawn_in(number: Number) -> Number | None:
    """`number` with bounds that are members where it has a step, or None if it is empty."""
    step = number.step
    if step is not None:
        if any((step / off).denominator == 1 for off in number.off_steps):
            return None
        if number.low is not None:
            low = ceil(number.low / step) * step
            if number.low_open and low == number.low:
                low += step
            number = replace(number, low=low, low_open=False)
        if number.high is not None:
            high = floor(number.high / step) * step
            if number.high_open and high == number.high:
                high -= step
            number = replace(number, high=high, high_open=False)
    if number.low is None or number.high is None:
        return number
    if number.low > number.high or (
        number.low == number.high and (number.low_open or number.high_open)
    ):
        return None
    if number.low == number.high:
        return _finite(frozenset((number.low,))) if number.contains(number.low) else None
    if step is not None and (number.high - number.low) / step < _LISTED and number.off_steps:
        count = int((number.high - number.low) / step) + 1
        members = (number.low + index * step for index in range(count))
        return _finite(frozenset(member for member in members if number.contains(member)))
    return number


def negate_number(number: Number) -> list[Number]:
    """The numbers that are not in `number`, as a union."""
    if number.values is not None:
        ordered: list[Fraction | None] = [None, *sorted(number.values), None]
        return [
            Number(low, low is not None, high, high is not None) for low, high in pairwise(ordered)
        ]
    cases = []
    if number.low is not None:
        cases.append(Number(high=number.low, high_open=not number.low_open))
    if number.high is not None:
        cases.append(Number(low=number.high, low_open=not number.high_open))
    if number.step is not None:
        cases.append(Number(off_steps=frozenset((number.step,))))
    return cases + [Number(step=step) for step in number.off_steps]


def _finite(values: frozenset[Fraction]) -> Number | None:
    return Number(values=values) if values else None


def _tighter(
    a: tuple[Fraction | None, bool], b: tuple[Fraction | None, bool], sign: int
) -> tuple[Fraction | None, bool]:
    """The stricter of two bounds; `sign` 1 for lower bounds, -1 for upper ones."""
    if a[0] is None or b[0] is None:
        return b if a[0] is None else a
    if a[0] == b[0]:
        return a[0], a[1] or b[1]
    return a if (a[0] - b[0]) * sign > 0 else b


def _common(a: Fraction, b: Fraction) -> Fraction:
    """The least common multiple of two steps."""
    return Fraction(lcm(a.numerator, b.numerator), gcd(a.denominator, b.denominator))
