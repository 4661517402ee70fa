"""Terms and the algebra of shapes: and, or, not, and a cheap test for disjointness.

`allOf`, `oneOf`, `not`, `if` and the rest are these four operations. Inner schemas are only combined by name
(`both(a, b)` is a new term) and worked out when their own shape is asked for. Every case that is made costs fuel,
so a schema that multiplies out is refused by name, not worked on for ever.
"""

import contextlib
import functools
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from branchwork.runtime.grammar.json_schema.arrays import meet_arrays, negate_array
from branchwork.runtime.grammar.json_schema.document import Place
from branchwork.runtime.grammar.json_schema.language import both as both_languages
from branchwork.runtime.grammar.json_schema.language import complement
from branchwork.runtime.grammar.json_schema.language import either as either_language
from branchwork.runtime.grammar.json_schema.numbers import meet_numbers, negate_number
from branchwork.runtime.grammar.json_schema.objects import Objects
from branchwork.runtime.grammar.json_schema.shape import (
    ANY,
    FALSE,
    NONE,
    TRUE,
    Array,
    Number,
    Object,
    Shape,
    Term,
)
from branchwork.runtime.grammar.json_schema.strings import disjoint
from branchwork.runtime.grammar.json_schema.terms import Both, Either, Given, Named, Opposite
from branchwork.runtime.wire.errors import ConstraintError

# Cases worked out for one schema; 40_000 take about a second.
MAX_CASES = 40_000
# Alternatives of one type within one schema; each is simulated beside the others.
MAX_ALTERNATIVES = 600
# How far below the alternatives themselves a difference between them is looked for.
DISJOINT_DEPTH = 3

# Keywords that lead to other schemas; a schema without them is read at no cost.
_NESTING = frozenset(
    (
        "$ref", "$dynamicRef", "$recursiveRef", "allOf", "anyOf", "oneOf", "not", "if", "dependencies",
        "dependentSchemas", "dependentRequired", "properties", "patternProperties", "additionalProperties", "items",
        "prefixItems", "contains", "unevaluatedProperties", "unevaluatedItems", "propertyNames",
    )
)  # fmt: skip

Case = TypeVar("Case")


class Algebra:
    """The terms of one schema and their shapes; `read` gives the shape of a place."""

    def __init__(self, read: Callable[[Place, Shape], Shape]) -> None:
        self._read = read
        self.objects = Objects(self)
        self._named: dict[int, Named] = {}
        self._flat: dict[Term, bool] = {}
        self._given: dict[Shape, Term] = {}
        self._boths: dict[frozenset[Term], Term] = {}
        self._eithers: dict[frozenset[Term], Term] = {}
        self._opposites: dict[Term, Term] = {}
        self._shapes: dict[Term, Shape | None] = {TRUE: ANY, FALSE: NONE}
        self._places: list[Place] = []
        self._cases = 0

    # ------------------------------------------------------------ terms

    def named(self, place: Place) -> Term:
        """The term of a place; one for each schema, however it is reached."""
        key = id(place.schema)
        return self._named.setdefault(key, Named(place))

    def given(self, shape: Shape) -> Term:
        """The term of a shape that is known; equal shapes without objects and arrays are one term."""
        if shape.objects or shape.arrays:
            return Given(shape)
        if shape == NONE:
            return FALSE
        return self._given.setdefault(shape, Given(shape))

    def both(self, *terms: Term) -> Term:
        """All of `terms`; `both(a, b) is a` says that `a` plainly implies `b`."""
        parts: dict[Term, None] = {}
        for term in terms:
            parts.update(dict.fromkeys(term.parts if isinstance(term, Both) else (term,)))
        parts.pop(TRUE, None)
        if len(parts) < 2:
            return next(iter(parts), TRUE)
        key = frozenset(parts)
        if key not in self._boths:
            self._boths[key] = self._both(parts)
        return self._boths[key]

    def _both(self, parts: dict[Term, None]) -> Term:
        if FALSE in parts or any(_contradicts(part, parts) for part in parts):
            return FALSE
        flat = [part for part in parts if self._is_flat(part)]
        if flat:
            # What has no objects and arrays is worked out at once: alternatives are told apart by it.
            flat += [p for p in parts if isinstance(p, Opposite) and self._is_flat(p.inner)]
        if len(flat) < 2:
            return Both(tuple(parts))
        whole = self.given(self.meet(*map(self.shape, flat)))
        return self.both(whole, *(part for part in parts if part not in flat))

    def _is_flat(self, term: Term) -> bool:
        """Whether plainly neither objects nor arrays are `term`, and its shape is at hand."""
        if isinstance(term, Named):
            known = self._flat.get(term)
            if known is None:
                known = self._flat[term] = self._reads_flat(term)
            return known
        return isinstance(term, Given) and not term.shape.objects and not term.shape.arrays

    def _reads_flat(self, term: Named) -> bool:
        schema = term.place.schema
        if not isinstance(schema, dict) or not _NESTING.isdisjoint(schema):
            return False
        try:
            shape = self.shape(term)
        except ConstraintError:
            return False  # reported when it is needed
        return not shape.objects and not shape.arrays

    def either(self, *terms: Term) -> Term:
        """Any of `terms`."""
        parts = dict.fromkeys(terms)
        parts.pop(FALSE, None)
        if TRUE in parts:
            return TRUE
        if len(parts) < 2:
            return next(iter(parts), FALSE)
        return self._eithers.setdefault(frozenset(parts), Either(tuple(parts)))

    def negation(self, term: Term) -> Term:
        """What `term` is not."""
        if term is TRUE or term is FALSE:
            return FALSE if term is TRUE else TRUE
        if isinstance(term, Opposite):
            return term.inner
        return self._opposites.setdefault(term, Opposite(term))

    # ------------------------------------------------------------ shapes

    @property
    def pointer(self) -> str:
        """Where the schema stands that is being read."""
        return self._places[-1].pointer if self._places else ""

    def is_being_read(self, term: Term) -> bool:
        """Whether the shape of `term` is wanted further up already."""
        return term in self._shapes and self._shapes[term] is None

    def shape(self, term: Term) -> Shape:
        """What `term` admits. Raises ConstraintError where it comes down to itself."""
        if term in self._shapes:
            found = self._shapes[term]
            if found is None:
                raise ConstraintError("The schema refers to itself without end.", self.pointer)
            return found
        self._shapes[term] = None
        try:
            found = self._shapes[term] = self._work_out(term)
        finally:
            if self._shapes[term] is None:
                del self._shapes[term]
        return found

    def shape_in(self, term: Named, context: Shape) -> Shape:
        """What `term` admits of what `context` admits, worked out anew."""
        with self.reading(term.place):
            return self._read(term.place, context)

    @contextlib.contextmanager
    def reading(self, place: Place) -> Iterator[None]:
        """While a place is read. Raises ConstraintError where it is being read further up already, twice."""
        if sum(place.schema is other.schema for other in self._places) > 1:
            raise ConstraintError("The schema refers to itself without end.", self.pointer)
        self._places.append(place)
        try:
            yield
        finally:
            self._places.pop()

    def _work_out(self, term: Term) -> Shape:
        if isinstance(term, Named):
            return self.shape_in(term, ANY)
        if isinstance(term, Given):
            return term.shape
        if isinstance(term, Opposite):
            return self.negate(self.shape(term.inner))
        assert isinstance(term, Both | Either), term
        shapes = [self.shape(part) for part in term.parts]
        return self.meet(*shapes) if isinstance(term, Both) else self.join(*shapes)

    def meet(self, *shapes: Shape) -> Shape:
        """What all of `shapes` admit."""
        result = ANY
        for shape in shapes:
            if result is ANY or shape is ANY:
                result = shape if result is ANY else result
                continue
            result = Shape(
                result.null and shape.null,
                result.true and shape.true,
                result.false and shape.false,
                self._pairs(result.numbers, shape.numbers, meet_numbers, _same),
                both_languages(result.strings, shape.strings),
                self._met_objects(result.objects, shape.objects),
                self._met_arrays(result.arrays, shape.arrays),
                result.exact and shape.exact,
            )
        return result

    def join(self, *shapes: Shape) -> Shape:
        """What any of `shapes` admits."""
        return Shape(
            any(shape.null for shape in shapes),
            any(shape.true for shape in shapes),
            any(shape.false for shape in shapes),
            self._distinct((n for shape in shapes for n in shape.numbers), _same),
            either_language(*(shape.strings for shape in shapes)),
            self._distinct_objects(o for shape in shapes for o in shape.objects),
            self._distinct((a for shape in shapes for a in shape.arrays), _same),
            all(shape.exact for shape in shapes),
        )

    def negate(self, shape: Shape) -> Shape:
        """What `shape` does not admit; anything at all, if `shape` is not exact."""
        if not shape.exact:
            return replace(ANY, exact=False)
        numbers: tuple[Number, ...] = (Number(),)
        for number in shape.numbers:
            numbers = self._pairs(numbers, negate_number(number), meet_numbers, _same)
        objects = ANY.objects
        for item in shape.objects:
            objects = self._met_objects(objects, tuple(self.objects.negate(item)))
        arrays = ANY.arrays
        for array in shape.arrays:
            arrays = self._met_arrays(arrays, tuple(negate_array(self, array)))
        return Shape(
            not shape.null,
            not shape.true,
            not shape.false,
            numbers,
            complement(shape.strings),
            objects,
            arrays,
        )

    def one_of(self, shapes: Sequence[Shape], alone: Callable[[int], Shape]) -> Shape:
        """What exactly one of `shapes` admits.

        Each has been met with the same context; `alone(i)` is the i-th without it, which has the simpler opposite.
        """
        cases = []
        for index, shape in enumerate(shapes):
            for other_index, other in enumerate(shapes):
                if other_index != index and not self.disjoint(shape, other):
                    shape = self.meet(shape, self.negate(alone(other_index)))
            cases.append(shape)
        return self.join(*cases)

    def _pairs(
        self,
        left: Iterable[Case],
        right: Iterable[Case],
        meet: Callable[[Case, Case], Case | None],
        identity: Callable[[Case], Hashable],
    ) -> tuple[Case, ...]:
        right = tuple(right)
        met = (meet(a, b) for a in left for b in right)
        return self._distinct((case for case in met if case is not None), identity)

    def _distinct(
        self, cases: Iterable[Case], identity: Callable[[Case], Hashable]
    ) -> tuple[Case, ...]:
        found: dict[Hashable, Case] = {}
        for case in cases:
            found.setdefault(identity(case), case)
            self._cases += 1
            if self._cases > MAX_CASES or len(found) > MAX_ALTERNATIVES:
                raise ConstraintError(
                    "The schema multiplies out to too many cases here.", self.pointer
                )
        return tuple(found.values())

    def _distinct_objects(self, cases: Iterable[Object]) -> tuple[Object, ...]:
        return self.objects.essential(self._distinct(cases, Object.signature))

    def _met_objects(
        self, left: tuple[Object, ...], right: tuple[Object, ...]
    ) -> tuple[Object, ...]:
        if left is ANY.objects or right is ANY.objects:
            return right if left is ANY.objects else left
        met = (self.objects.meet(a, b) for a in left for b in right)
        return self._distinct_objects(case for cases in met for case in cases)

    def _met_arrays(self, left: tuple[Array, ...], right: tuple[Array, ...]) -> tuple[Array, ...]:
        if left is ANY.arrays or right is ANY.arrays:
            return right if left is ANY.arrays else left
        return self._pairs(left, right, functools.partial(meet_arrays, self), _same)

    # ------------------------------------------------------------ disjointness

    def disjoint(self, a: Shape, b: Shape, depth: int = DISJOINT_DEPTH) -> bool:
        """Whether plainly nothing is both; False says nothing."""
        if (a.null and b.null) or (a.true and b.true) or (a.false and b.false):
            return False
        if any(meet_numbers(x, y) is not None for x in a.numbers for y in b.numbers):
            return False
        if not disjoint(a.strings, b.strings):
            return False
        return all(
            self._disjoint_objects(x, y, depth) for x in a.objects for y in b.objects
        ) and all(self._disjoint_arrays(x, y, depth) for x in a.arrays for y in b.arrays)

    def _disjoint_objects(self, a: Object, b: Object, depth: int) -> bool:
        if _apart(a.least, a.most, b.least, b.most):
            return True
        names = dict.fromkeys(
            name for one in (a, b) for name, found in one.properties.items() if found.required
        )
        return any(self._disjoint_terms(a.at(name).term, b.at(name).term, depth) for name in names)

    def _disjoint_arrays(self, a: Array, b: Array, depth: int) -> bool:
        if _apart(a.least, a.most, b.least, b.most):
            return True
        common = min(max(a.least, b.least), max(len(a.prefix), len(b.prefix)) + 1)
        return any(self._disjoint_terms(a.at(i), b.at(i), depth) for i in range(common))

    def _disjoint_terms(self, a: Term, b: Term, depth: int) -> bool:
        if a is FALSE or b is FALSE:
            return True
        if (
            depth == 0
            or a is TRUE
            or b is TRUE
            or a is b
            or self.is_being_read(a)
            or self.is_being_read(b)
        ):
            return False
        try:
            return self.disjoint(self.shape(a), self.shape(b), depth - 1)
        except ConstraintError:
            return False  # whatever is wrong in there is reported when it is needed


def _same(case: Case) -> Case:
    return case


def _apart(least: int, most: int | None, other_least: int, other_most: int | None) -> bool:
    return (most is not None and most < other_least) or (
        other_most is not None and other_most < least
    )


def _contradicts(term: Term, terms: dict[Term, None]) -> bool:
    """Whether `term` is the opposite of some of `terms` together."""
    if not isinstance(term, Opposite):
        return False
    inner = term.inner
    return all(part in terms for part in (inner.parts if isinstance(inner, Both) else (inner,)))
