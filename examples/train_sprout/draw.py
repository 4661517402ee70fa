"""Seeded draws of names, numbers and words, split so that held-out values are never trained on."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Sequence
from typing import TypeVar

from examples.train_sprout.words import CITIES, FIRST_NAMES, LAST_NAMES, NOUNS, STREETS

T = TypeVar("T")

ONSETS = (
    *"bcdfghjklmnprstvwz",
    "br",
    "ch",
    "cl",
    "cr",
    "dr",
    "fl",
    "gr",
    "kr",
    "ph",
    "pr",
    "qu",
    "sh",
    "sk",
    "st",
    "th",
    "tr",
    "wh",
    "y",
)
VOWELS = (*"aaeeiioou", "ai", "ea", "ee", "ie", "oo", "ou", "y")
CODAS = ("", "", "", *"dklmnrstxz", "ck", "ld", "nd", "ng", "rt", "ss", "th")


def is_held_out(value: str) -> bool:
    """True for the fixed tenth of all strings that training must not see."""
    return zlib.crc32(value.encode()) % 10 == 0


class Draw:
    """The randomness of one document.

    Values a model has to copy or compute with (`name`, `number`, `pair`, ...) come from the
    training part, or from the held-out part when `held_out`. Template choices come from both.
    """

    def __init__(self, rng: random.Random, *, held_out: bool) -> None:
        self.rng = rng
        self.held_out = held_out

    def of(self, options: Sequence[T]) -> T:
        """One of `options`."""
        return self.rng.choice(options)

    def some(self, options: Sequence[T], count: int) -> list[T]:
        """`count` different elements in random order."""
        return self.rng.sample(options, count)

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.rng.random() < probability

    def between(self, low: int, high: int) -> int:
        """An integer from low to high, both included; not split."""
        return self.rng.randint(low, high)

    def split(self, make: Callable[[], T]) -> T:
        """Call `make` until its value lies on this draw's side of the split."""
        while True:
            value = make()
            if is_held_out(str(value)) == self.held_out:
                return value

    def number(self, low: int = 0, high: int = 99_999) -> int:
        """A number of a random length; those of three digits and more are split."""
        digits = self.between(len(str(low)), len(str(high)))
        floor, ceiling = (
            max(low, 10 ** (digits - 1) if digits > 1 else 0),
            min(high, 10**digits - 1),
        )
        if digits < 3:
            return self.between(floor, ceiling)
        return self.split(lambda: self.between(floor, ceiling))

    def made_up(self) -> str:
        """A pronounceable word of one or two syllables that means nothing, in lower case."""
        count = self.between(1, 2)
        return "".join(self.of(ONSETS) + self.of(VOWELS) + self.of(CODAS) for _ in range(count))

    def word(self) -> str:
        """A word in lower case, common or made up."""
        return self.of(NOUNS) if self.chance(0.6) else self.split(self.made_up)

    def proper(self) -> str:
        """A capitalised word never met before."""
        return self.split(lambda: self.made_up().capitalize())

    def first_name(self) -> str:
        """A given name: common or made up."""
        return self.of(FIRST_NAMES) if self.chance(0.5) else self.proper()

    def last_name(self) -> str:
        """A family name: common or made up."""
        return self.of(LAST_NAMES) if self.chance(0.3) else self.proper()

    def name(self) -> str:
        """A full name on this draw's side of the split."""
        return self.split(lambda: f"{self.first_name()} {self.last_name()}")

    def city(self) -> str:
        """A city: known, or made up in the way of places."""
        if self.chance(0.6):
            return self.of(CITIES)
        town = self.proper()
        return self.of((town, town, f"New {town}"))

    def street(self) -> str:
        """A street with a house number."""
        number = self.between(1, 250)
        street = self.of(STREETS) if self.chance(0.5) else self.proper()
        return f"{number} {street} {self.of(('Street', 'Road', 'Lane', 'Avenue'))}"

    def email(self) -> str:
        """An e-mail address, split as a whole."""

        def make() -> str:
            user = f"{self.word()}{self.of(('.', ''))}{self.word()}"
            return f"{user}@{self.word()}.{self.of(('com', 'org'))}"

        return self.split(make)

    def title(self) -> str:
        """The title of a book, film or song, in title case."""
        noun, other = self.of(NOUNS).capitalize(), self.proper()
        return self.of(
            (
                f"The {noun} of {other}",
                f"The Last {noun}",
                f"{noun} and {self.of(NOUNS).capitalize()}",
            )
        )

    def company(self) -> str:
        """The name of a company, of one word or two."""
        kind = self.of(("", " Labs", " Foods", " Motors", " Bank", " Books"))
        return f"{self.proper()}{kind}"

    def date(self) -> str:
        """A date in ISO form."""
        return f"{self.between(1900, 2035)}-{self.between(1, 12):02d}-{self.between(1, 28):02d}"

    def time(self) -> str:
        """A time of day."""
        return f"{self.between(0, 23):02d}:{self.of(('00', '15', '30', '45'))}"

    def pair(self, make: Callable[[], tuple[int, int]]) -> tuple[int, int]:
        """Two numbers whose combination lies on this draw's side of the split."""
        return self.split(make)
