"""The canonical form: a schema as what it admits of each JSON type.

    Shape    null, true, false: admitted or not;  numbers, objects, arrays: unions;  strings: one language
    Number   an interval, a step (multipleOf; 1 for integers), or finitely many values
    Object   what each key leads to, which keys must be there, how many, and keys that must exist somewhere
    Array    what each index leads to, how many, how many of a kind, whether all differ

Inner schemas are `Term`s, read only when somebody needs them, so recursion and large schemas cost nothing here.
After "Witness Generation for JSON Schema" (Attouche, Baazizi, Colazzo, Ghelli, Sartiani, Scherzinger; VLDB 2022).
"""

from dataclasses import dataclass, field
from fractions import Fraction

from branchwork.runtime.grammar.json_schema.language import ALL, NOTHING, Language


class Term:
    """A schema by name: equal only to itself, its meaning known to the algebra."""

    __slots__ = ()


class _Constant(Term):
    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


TRUE: Term = _Constant("TRUE")
FALSE: Term = _Constant("FALSE")


@dataclass(frozen=True, slots=True)
class Number:
    """Numbers x with low ≤ x ≤ high (< where open), a multiple of `step`, of no step in `off_steps`.

    `values`, where given, are all there is; the other fields are then at their defaults.
    """

    low: Fraction | None = None
    low_open: bool = False
    high: Fraction | None = None
    high_open: bool = False
    step: Fraction | None = None
    off_steps: frozenset[Fraction] = frozenset()
    values: frozenset[Fraction] | None = None

    def contains(self, value: Fraction) -> bool:
        """Whether `value` is one of them."""
        if self.values is not None:
            return value in self.values
        return (
            (self.low is None or (value > self.low if self.low_open else value >= self.low))
            and (self.high is None or (value < self.high if self.high_open else value <= self.high))
            and (self.step is None or (value / self.step).denominator == 1)
            and all((value / step).denominator != 1 for step in self.off_steps)
        )


@dataclass(frozen=True, slots=True)
class Property:
    """What a named key leads to. FALSE forbids the key."""

    term: Term = TRUE
    required: bool = False


@dataclass(frozen=True, slots=True)
class Object:
    """Objects whose named keys are as `properties` say and whose other keys fall into `cells`, else into `rest`.

    The languages of the cells do not overlap. `witnesses` are pairs (keys, term): some key of the object lies in
    `keys` and leads to `term`. `properties` keep the order of the schema.
    """

    properties: dict[str, Property] = field(default_factory=dict)
    cells: tuple[tuple[Language, Term], ...] = ()
    rest: Term = TRUE
    least: int = 0
    most: int | None = None
    witnesses: tuple[tuple[Language, Term], ...] = ()

    def at(self, key: str) -> Property:
        """What `key` leads to."""
        found = self.properties.get(key)
        if found is not None:
            return found
        for keys, term in self.cells:
            if keys.contains(key):
                return Property(term)
        return Property(self.rest)

    def signature(self) -> object:
        """A hashable value, equal for equal objects."""
        return (
            frozenset(self.properties.items()), self.cells, self.rest, self.least, self.most, self.witnesses
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Some:
    """At least `least` and at most `most` items from index `start` on are `term`."""

    term: Term
    start: int = 0
    least: int = 1
    most: int | None = None


@dataclass(frozen=True, slots=True)
class Array:
    """Arrays whose first items are as `prefix` says, the others `rest`; `unique`: no two items are equal."""

    prefix: tuple[Term, ...] = ()
    rest: Term = TRUE
    least: int = 0
    most: int | None = None
    some: tuple[Some, ...] = ()
    unique: bool = False

    def at(self, index: int) -> Term:
        """What the item at `index` is."""
        return self.prefix[index] if index < len(self.prefix) else self.rest


@dataclass(frozen=True, slots=True)
class Shape:
    """What a schema admits, type by type. `exact` is False where best effort admits more than the schema does."""

    null: bool = True
    true: bool = True
    false: bool = True
    numbers: tuple[Number, ...] = (Number(),)
    strings: Language = ALL
    objects: tuple[Object, ...] = (Object(),)
    arrays: tuple[Array, ...] = (Array(),)
    exact: bool = True


def least_of(a: int | None, b: int | None) -> int | None:
    """The stricter of two upper bounds, of which None is none."""
    return b if a is None else a if b is None else min(a, b)


ANY = Shape()
NONE = Shape(False, False, False, (), NOTHING, (), ())
