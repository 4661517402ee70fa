"""Automata over decimal numerals: bounds, steps and listed values, exactly.

A numeral is read digit by digit beside both bounds (is the prefix less, equal, greater?) and beside the remainder
for each step. Digits are bounded, so no number goes on without end. Exponents are read where only the sign matters;
elsewhere numbers are written without.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from branchwork.runtime.grammar.dfa import DEAD, Dfa, make, of_strings
from branchwork.runtime.grammar.json_schema.shape import Number
from branchwork.runtime.wire.errors import ConstraintError

# 20 digits hold every 64-bit integer; 17 fraction digits hold every double between 0.1 and 1.
WHOLE_DIGITS = 20
FRACTION_DIGITS = 17
# Remainders beside digits; 2_000 states take some 20 ms.
MAX_REMAINDERS = 2_000

_DIGITS = "0123456789"
_SYMBOLS = _DIGITS + "-.eE+"


@functools.lru_cache(maxsize=1024)
def numeral_dfa(number: Number, canonical: bool = False) -> Dfa:
    """The numerals of the numbers in `number`; `canonical`: exactly one for each.

    Raises ConstraintError where a step has too many remainders.
    """
    if number.values is not None:
        spelled = (spelling for value in number.values for spelling in spellings(value))
        return of_strings([plain(value) for value in number.values] if canonical else spelled)
    return _explore(_Branch.of(number, False, canonical), _Branch.of(number, True, canonical))


def remainders_of(*steps: Fraction) -> int:
    """How many remainders some steps have together."""
    remainders = 1
    for step in steps:
        remainders *= _Divisor.of(step).modulus
    return remainders


def plain(value: Fraction) -> bytes:
    """A decimal fraction without an exponent."""
    scale = _scale(value)
    digits = f"{abs(value.numerator) * (10**scale // value.denominator):0{scale + 1}d}"
    cut = len(digits) - scale
    text = digits[:cut] + ("." + digits[cut:] if scale else "")
    return ("-" + text if value < 0 else text).encode()


def spellings(value: Fraction) -> Iterator[bytes]:
    """The ways a listed number may be written: in full, and as a float is printed."""
    yield plain(value)
    if value.denominator != 1 and Fraction(repr(float(value))) == value:
        yield repr(float(value)).encode()


def _scale(value: Fraction) -> int:
    """Fraction digits of a decimal fraction."""
    scale = 0
    while (value * 10**scale).denominator != 1:
        scale += 1
    return scale


@dataclass(frozen=True, slots=True)
class _Bound:
    """A bound as its digits, without leading and trailing zeros (but for a whole part of 0)."""

    whole: str
    fraction: str

    @classmethod
    def of(cls, value: Fraction) -> "_Bound":
        whole, _, fraction = plain(value).decode().partition(".")
        return cls(whole, fraction)

    def digit(self, index: int, in_fraction: bool) -> str:
        digits = self.fraction if in_fraction else self.whole
        return digits[index] if index < len(digits) else "0"

    def compare_whole(self, so_far: int, index: int, digit: str) -> int:
        if index >= len(self.whole):
            return 1
        return so_far or _sign(digit, self.whole[index])

    def compare_fraction(self, so_far: int, index: int, digit: str) -> int:
        return so_far or _sign(digit, self.fraction[index] if index < len(self.fraction) else "0")


@dataclass(frozen=True, slots=True)
class _Divisor:
    """A step as modulus / 10**scale."""

    modulus: int
    scale: int

    @classmethod
    def of(cls, step: Fraction) -> "_Divisor":
        scale = _scale(step)
        return cls(int(step * 10**scale), scale)

    def divides(self, remainder: int | None, index: int) -> bool:
        """Whether a number with `index` fraction digits and that remainder is a multiple."""
        return (
            remainder is not None
            and remainder * 10 ** max(0, self.scale - index) % self.modulus == 0
        )


class _State(NamedTuple):
    """phase, digits read in it, comparisons with low and high, remainders (None: beyond the step's digits)."""

    phase: str
    negative: bool = False
    position: int = 0
    low: int = 0
    high: int = 0
    remainders: tuple[int | None, ...] = ()
    some_digit: bool = False
    last_zero: bool = False


@dataclass(frozen=True, slots=True)
class _Branch:
    """The numerals of one sign: magnitudes between `low` and `high`."""

    negative: bool
    low: _Bound
    low_open: bool
    high: _Bound | None
    high_open: bool
    divisors: tuple[_Divisor, ...]
    stepped: bool
    whole_digits: int
    fraction_digits: int
    exponents: bool
    canonical: bool

    @classmethod
    def of(cls, number: Number, negative: bool, canonical: bool) -> "_Branch | None":
        low, low_open, high, high_open = number.low, number.low_open, number.high, number.high_open
        if negative:
            low, low_open = (None if number.high is None else -number.high), number.high_open
            high, high_open = (None if number.low is None else -number.low), number.low_open
        if high is not None and (high < 0 or (high == 0 and high_open)):
            return None
        if low is None or low < 0:
            low, low_open = Fraction(0), False
        steps = [] if number.step is None else [number.step]
        divisors = tuple(_Divisor.of(step) for step in [*steps, *sorted(number.off_steps)])
        remainders = remainders_of(*steps, *number.off_steps)
        if remainders > MAX_REMAINDERS:
            raise ConstraintError("multipleOf has too many digits to be enforced.")
        bounds = [_Bound.of(bound) for bound in (low, high) if bound is not None]
        longest = max(len(bound.whole) for bound in bounds)
        return cls(
            negative,
            bounds[0],
            low_open,
            bounds[1] if len(bounds) == 2 else None,
            high_open,
            divisors,
            bool(steps),
            max(longest + 1, min(WHOLE_DIGITS, 2 * MAX_REMAINDERS // remainders)),
            divisors[0].scale
            if steps
            else max(FRACTION_DIGITS, *(len(bound.fraction) + 1 for bound in bounds)),
            low == 0 and high is None and not divisors and not canonical,
            canonical,
        )

    def start(self) -> _State:
        """Before the first digit."""
        return _State("first", self.negative, remainders=(0,) * len(self.divisors))

    def step(self, state: _State, symbol: str) -> _State | None:
        """The state after one more character."""
        phase = state.phase
        if symbol.isdigit():
            return self._digit(state, symbol)
        if symbol == "." and phase in ("whole", "zero") and self.fraction_digits:
            return self._end_whole(state)._replace(phase="fraction", position=0)
        if (
            symbol in "eE"
            and self.exponents
            and (phase in ("whole", "zero") or (phase == "fraction" and state.position))
        ):
            return _State("exponent", self.negative, some_digit=state.some_digit)
        if symbol in "+-" and phase == "exponent" and state.position == 0:
            return state._replace(phase="power")
        return None

    def telling(self, state: _State) -> str:
        """The digits after which the numeral may go on in different ways; those between two of them are alike."""
        if any(divisor.modulus > 1 for divisor in self.divisors):
            return _DIGITS
        index, in_fraction = state.position, state.phase == "fraction"
        digits = {"0"}
        for bound, so_far in ((self.low, state.low), (self.high, state.high)):
            if bound is not None and not so_far:
                digits.add(bound.digit(index, in_fraction))
        return "".join(sorted(digits))

    def _digit(self, state: _State, digit: str) -> _State | None:
        if state.phase in ("exponent", "power"):
            return (
                state._replace(phase="power", position=state.position + 1)
                if state.position < 2
                else None
            )
        if state.phase == "first" and digit == "0" and self.negative and (not self.fraction_digits):
            return None  # -0
        if state.phase == "zero" or state.position == (
            self.fraction_digits if state.phase == "fraction" else self.whole_digits
        ):
            return None
        index, in_fraction = state.position, state.phase == "fraction"
        compared = [
            0
            if bound is None
            else (bound.compare_fraction if in_fraction else bound.compare_whole)(
                so_far, index, digit
            )
            for bound, so_far in ((self.low, state.low), (self.high, state.high))
        ]
        if in_fraction and (compared[0] < 0 or compared[1] > 0):
            return None  # no further digit can mend it
        if self.high is not None and compared[1] > 0 and index + 1 >= len(self.high.whole):
            return None  # as long as the bound and greater, or longer
        remainders = tuple(
            self._remainder(divisor, remainder, index if in_fraction else -1, digit)
            for divisor, remainder in zip(self.divisors, state.remainders, strict=True)
        )
        phase = (
            "fraction"
            if in_fraction
            else "zero"
            if state.phase == "first" and digit == "0"
            else "whole"
        )
        return _State(
            phase, self.negative, index + 1, compared[0], compared[1], remainders,
            state.some_digit or digit != "0", in_fraction and digit == "0",
        )  # fmt: skip

    def _remainder(
        self, divisor: _Divisor, remainder: int | None, index: int, digit: str
    ) -> int | None:
        if remainder is None or index >= divisor.scale:
            return remainder if digit == "0" else None
        return (remainder * 10 + int(digit)) % divisor.modulus

    def _end_whole(self, state: _State) -> _State:
        """The comparisons once the whole part is known to end: fewer digits are less."""
        low = state.low if state.position >= len(self.low.whole) else -1
        high = (
            0 if self.high is None else state.high if state.position >= len(self.high.whole) else -1
        )
        return state._replace(low=low, high=high)

    def accepts(self, state: _State) -> bool:
        """Whether the numeral may end here."""
        if state.phase == "power" and state.position:
            return state.some_digit or not self.low_open
        if state.phase not in ("whole", "zero", "fraction") or (
            state.phase == "fraction" and not state.position
        ):
            return False
        fraction_digits = state.position if state.phase == "fraction" else 0
        if state.phase != "fraction":
            state = self._end_whole(state)
        if self.canonical and (state.last_zero or (self.negative and not state.some_digit)):
            return False
        low = state.low or (-1 if fraction_digits < len(self.low.fraction) else 0)
        if low < 0 or (low == 0 and self.low_open):
            return False
        if self.high is not None:
            high = state.high or (-1 if fraction_digits < len(self.high.fraction) else 0)
            if high > 0 or (high == 0 and self.high_open):
                return False
        divided = [
            divisor.divides(remainder, fraction_digits)
            for divisor, remainder in zip(self.divisors, state.remainders, strict=True)
        ]
        return (not self.stepped or divided[0]) and not any(divided[self.stepped :])


def _sign(a: str, b: str) -> int:
    return (a > b) - (a < b)


def _explore(positive: _Branch | None, negative: _Branch | None) -> Dfa:
    """Both branches as one automaton, breadth first."""

    def step(state: _State | None, symbol: str) -> _State | None:
        if state is None:  # before the sign
            if symbol == "-":
                return negative.start() if negative else None
            return positive.step(positive.start(), symbol) if positive else None
        branch = negative if state.negative else positive
        assert branch is not None
        return branch.step(state, symbol)

    width = len(_SYMBOLS) + 1
    numbers: dict[_State | None, int] = {None: 1}
    order: list[_State | None] = [None]
    rows, accepting = [[DEAD] * width], [False]
    for state in order:
        row, target = [DEAD] * width, None
        branch = negative if state and state.negative else positive
        telling = _DIGITS if state is None or branch is None else branch.telling(state)
        for column, symbol in enumerate(_SYMBOLS, 1):
            if column > len(_DIGITS) or symbol in telling or _SYMBOLS[column - 2] in telling:
                target = step(state, symbol)
            if target is None:
                continue
            number = numbers.setdefault(target, len(numbers) + 1)
            if number > len(order):
                order.append(target)
            row[column] = number
        rows.append(row)
        accepting.append(state is not None and branch is not None and branch.accepts(state))
    classes = np.zeros(256, np.uint8)
    for column, symbol in enumerate(_SYMBOLS, 1):
        classes[ord(symbol)] = column
    return make(classes, np.array(rows, np.int32), np.array(accepting), 1)
