"""Names for schemas: what a property leads to, before anyone asks what that admits."""

from typing import Protocol

from branchwork.runtime.grammar.json_schema.document import Place
from branchwork.runtime.grammar.json_schema.shape import Shape, Term


class Named(Term):
    """The schema at a place of the document."""

    __slots__ = ("place",)

    def __init__(self, place: Place) -> None:
        self.place = place


class Given(Term):
    """A shape that is known already."""

    __slots__ = ("shape",)

    def __init__(self, shape: Shape) -> None:
        self.shape = shape


class Both(Term):
    """All of two or more terms, none of them a Both."""

    __slots__ = ("parts",)

    def __init__(self, parts: tuple[Term, ...]) -> None:
        self.parts = parts


class Either(Term):
    """Any of two or more terms."""

    __slots__ = ("parts",)

    def __init__(self, parts: tuple[Term, ...]) -> None:
        self.parts = parts


class Opposite(Term):
    """What a term is not."""

    __slots__ = ("inner",)

    def __init__(self, inner: Term) -> None:
        self.inner = inner


class Terms(Protocol):
    """Makes terms of terms; equal ones are the same, so `both(a, b) is a` says that `a` plainly implies `b`."""

    def both(self, *terms: Term) -> Term:
        """All of `terms`."""
        ...

    def negation(self, term: Term) -> Term:
        """What `term` is not."""
        ...
