"""Terms and the algebra of shapes: and, or, not, and a cheap test for disjointness.

`allOf`, `oneOf`, `not`, `if` and the rest are these four operations. Inner schemas are only combined by name
(`both(a, b)` is a new term) and worked out when their own shape is asked for. Every case that is made costs fuel,
so a schema that multiplies out is refused by name, not worked on for ever.
"""

import contextlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TypeAlias, TypeGuard, TypeVar

from branchwork.runtime.grammar.json_schema.document import Place
from branchwork.runtime.grammar.json_schema.language import Language, complement, words
from branchwork.runtime.grammar.json_schema.language import both as both_languages
from branchwork.runtime.grammar.json_schema.language import either as either_language
from branchwork.runtime.grammar.json_schema.numbers import meet_numbers, negate_number
from branchwork.runtime.grammar.json_schema.shape import (
    ANY,
    FALSE,
    NONE,
    TRUE,
    Array,
    Number,
    Object,
    Property,
    Shape,
    Some,
    Term,
)
from branchwork.runtime.grammar.json_schema.strings import disjoint, is_empty
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
_Demands: TypeAlias = frozenset[tuple[str, Term | None]]


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


class Compound(Term):
    """All of, any of, or none of (`both`, `either`, `not`) some terms."""

    __slots__ = ("operation", "parts")

    def __init__(self, operation: str, parts: tuple[Term, ...]) -> None:
        self.operation = operation
        self.parts = parts


class Algebra:
    """The terms of one schema and their shapes; `read` gives the shape of a place."""

    def __init__(self, read: Callable[[Place, Shape], Shape]) -> None:
        self._read = read
        self._named: dict[int, Named] = {}
        self._flat: dict[Term, bool] = {}
        self._given: dict[Shape, Term] = {}
        self._compounds: dict[tuple[str, frozenset[Term]], Term] = {}
        self._shapes: dict[Term, Shape | None] = {TRUE: ANY, FALSE: NONE}
        self._pointers: list[str] = [""]
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
            inner = (
                term.parts if isinstance(term, Compound) and term.operation == "both" else (term,)
            )
            parts.update(dict.fromkeys(inner))
        parts.pop(TRUE, None)
        if len(parts) < 2:
            return next(iter(parts), TRUE)
        key = ("both", frozenset(parts))
        if key not in self._compounds:
            self._compounds[key] = self._both(parts)
        return self._compounds[key]

    def _both(self, parts: dict[Term, None]) -> Term:
        if FALSE in parts or any(_contradicts(part, parts) for part in parts):
            return FALSE
        flat = [part for part in parts if self._is_flat(part)]
        if flat:
            # What has no objects and arrays is worked out at once: alternatives are told apart by it.
            flat += [part for part in parts if _is_negation(part) and self._is_flat(part.parts[0])]
        if len(flat) < 2:
            return Compound("both", tuple(parts))
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
        return self._compound("either", parts, FALSE)

    def negation(self, term: Term) -> Term:
        """What `term` is not."""
        if term is TRUE or term is FALSE:
            return FALSE if term is TRUE else TRUE
        if isinstance(term, Compound) and term.operation == "not":
            return term.parts[0]
        return self._compounds.setdefault(("not", frozenset((term,))), Compound("not", (term,)))

    def _compound(self, operation: str, parts: dict[Term, None], empty: Term) -> Term:
        if len(parts) < 2:
            return next(iter(parts), empty)
        key = (operation, frozenset(parts))
        return self._compounds.setdefault(key, Compound(operation, tuple(parts)))

    # ------------------------------------------------------------ shapes

    @property
    def pointer(self) -> str:
        """Where the schema stands that is being read."""
        return self._pointers[-1]

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
        if self._pointers.count(place.pointer) > 1:
            raise ConstraintError("The schema refers to itself without end.", self.pointer)
        self._pointers.append(place.pointer)
        try:
            yield
        finally:
            self._pointers.pop()

    def _work_out(self, term: Term) -> Shape:
        if isinstance(term, Named):
            return self.shape_in(term, ANY)
        if isinstance(term, Given):
            return term.shape
        assert isinstance(term, Compound), term
        shapes = [self.shape(part) for part in term.parts]
        if term.operation == "not":
            return self.negate(shapes[0])
        return self.meet(*shapes) if term.operation == "both" else self.join(*shapes)

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
                self._meet_all_objects(result.objects, shape.objects),
                self._pairs(result.arrays, shape.arrays, self.meet_arrays, _same),
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
        objects: tuple[Object, ...] = (Object(),)
        for item in shape.objects:
            objects = self._meet_all_objects(objects, tuple(self._negate_object(item)))
        arrays: tuple[Array, ...] = (Array(),)
        for array in shape.arrays:
            arrays = self._pairs(arrays, self._negate_array(array), self.meet_arrays, _same)
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
        """The same union without the cases that others cover."""
        found = [(case, _demands(case)) for case in self._distinct(cases, Object.signature)]
        kept: list[tuple[Object, _Demands]] = []
        for one in found:
            if not any(self._covers(other, one) for other in kept):
                kept = [other for other in kept if not self._covers(one, other)] + [one]
        return tuple(case for case, _ in kept)

    # ------------------------------------------------------------ objects

    def _meet_all_objects(
        self, left: Iterable[Object], right: tuple[Object, ...]
    ) -> tuple[Object, ...]:
        met = (self.meet_objects(a, b) for a in left for b in right)
        return self._distinct_objects(case for cases in met for case in cases)

    def meet_objects(self, a: Object, b: Object) -> list[Object]:
        """Objects that are both, as a union (of none, where that is plainly empty)."""
        properties: dict[str, Property] = {}
        for name in (*a.properties, *(name for name in b.properties if name not in a.properties)):
            first, second = a.at(name), b.at(name)
            required = first.required or second.required
            term = self.both(first.term, second.term)
            if required and term is FALSE:
                return []
            properties[name] = Property(term, required)
        cells, rest = self._meet_cells(a, b)
        most = b.most if a.most is None else a.most if b.most is None else min(a.most, b.most)
        met = Object(
            properties,
            cells,
            rest,
            max(a.least, b.least),
            most,
            tuple(dict.fromkeys(a.witnesses + b.witnesses)),
        )
        if not _countable(met):
            return []
        # A closed object names all the keys that a witness can have; an open one may still be closed later.
        return self.settle(met) if met.witnesses and rest is FALSE and not cells else [met]

    def _meet_cells(self, a: Object, b: Object) -> tuple[tuple[tuple[Language, Term], ...], Term]:
        rest = self.both(a.rest, b.rest)
        if not a.cells and not b.cells:
            return (), rest
        cells: list[tuple[Language, Term]] = []
        for keys, term in a.cells:
            shared = [(other, inner) for other, inner in b.cells if not disjoint(keys, other)]
            cells += [
                (both_languages(keys, other), self.both(term, inner)) for other, inner in shared
            ]
            cells += _outside(keys, [other for other, _ in shared], self.both(term, b.rest))
        for keys, term in b.cells:
            shared_keys = [other for other, _ in a.cells if not disjoint(keys, other)]
            cells += _outside(keys, shared_keys, self.both(term, a.rest))
        return tuple((keys, term) for keys, term in cells if term is not rest), rest

    def partition(self, patterns: Iterable[tuple[Language, Term]]) -> list[tuple[Language, Term]]:
        """Keys that are as every pattern they match says: the same as languages that do not overlap."""
        merged: dict[Term, Language] = {}
        for keys, term in patterns:
            merged[term] = either_language(merged[term], keys) if term in merged else keys
        found: list[tuple[Language, Term]] = []
        for term, keys in merged.items():
            shared = [(other, inner) for other, inner in found if not disjoint(keys, other)]
            apart = [cell for cell in found if cell not in shared]
            found = apart + _outside(keys, [other for other, _ in shared], term)
            for other, inner in shared:
                found.append((both_languages(keys, other), self.both(term, inner)))
                found += _outside(other, [keys], inner)
        return found

    def settle(self, item: Object) -> list[Object]:
        """The union of objects without witnesses that are `item`; a witness among unnamed keys stays one."""
        if not item.witnesses:
            return [item]
        (keys, term), *others = item.witnesses
        remaining = replace(item, witnesses=tuple(others))
        cases: list[Object] = []
        for name, found in item.properties.items():
            if keys.contains(name):
                with_it = Property(self.both(found.term, term), required=True)
                if with_it.term is not FALSE:
                    named = replace(remaining, properties={**item.properties, name: with_it})
                    cases += self.settle(named) if _countable(named) else []
        unnamed = [
            (both_languages(keys, cell), self.both(term, inner)) for cell, inner in item.cells
        ]
        outside = (complement(cell) for cell, _ in item.cells)
        unnamed.append((both_languages(keys, *outside), self.both(term, item.rest)))
        for cell, inner in unnamed:
            if inner is not FALSE and not is_empty(cell):
                cases += [
                    replace(case, witnesses=((cell, inner), *case.witnesses))
                    for case in self.settle(remaining)
                ]
        return cases

    def _negate_object(self, item: Object) -> Iterable[Object]:
        for name, found in item.properties.items():
            if found.term is not TRUE:
                yield Object({name: Property(self.negation(found.term), required=True)})
            if found.required:
                yield Object({name: Property(FALSE)})
        named = complement(words(item.properties))
        for keys, term in item.cells:
            if term is not TRUE:
                yield Object(witnesses=((both_languages(keys, named), self.negation(term)),))
        if item.rest is not TRUE:
            keys = both_languages(named, *(complement(cell) for cell, _ in item.cells))
            yield Object(witnesses=((keys, self.negation(item.rest)),))
        for keys, term in item.witnesses:
            yield Object(cells=((keys, self.negation(term)),))
        if item.least:
            yield Object(most=item.least - 1)
        if item.most is not None:
            yield Object(least=item.most + 1)

    def _covers(self, covering: tuple[Object, _Demands], covered: tuple[Object, _Demands]) -> bool:
        """Whether plainly every object of the second is one of the first."""
        (whole, demands), (part, given) = covering, covered
        for name, term in demands - given:
            if term is None or not self._implies(part.at(name).term, term):
                return False
        if whole.least > part.least or (whole.witnesses and whole.witnesses != part.witnesses):
            return False
        if whole.most is not None and (part.most is None or part.most > whole.most):
            return False
        if whole.rest is TRUE and not whole.cells:
            return True
        return (
            whole.cells == part.cells
            and self._implies(part.rest, whole.rest)
            and all(
                self._implies(found.term, whole.at(name).term)
                for name, found in part.properties.items()
                if name not in whole.properties
            )
        )

    def _implies(self, term: Term, wanted: Term) -> bool:
        """Whether plainly all that `term` admits, `wanted` does."""
        return term is wanted or term is FALSE or self.both(term, wanted) is term

    # ------------------------------------------------------------ arrays

    def meet_arrays(self, a: Array, b: Array) -> Array | None:
        """Arrays that are both, or None where that is plainly empty."""
        longest = max(len(a.prefix), len(b.prefix))
        prefix = tuple(self.both(a.at(i), b.at(i)) for i in range(longest))
        rest = self.both(a.rest, b.rest)
        most = b.most if a.most is None else a.most if b.most is None else min(a.most, b.most)
        return self.bounded(
            Array(
                prefix,
                rest,
                max(a.least, b.least),
                most,
                tuple(dict.fromkeys(a.some + b.some)),
                a.unique or b.unique,
            )
        )

    def bounded(self, array: Array) -> Array | None:
        """`array` with its bounds drawn in; None where it is plainly empty."""
        most, least, prefix = array.most, array.least, array.prefix
        some = []
        for part in array.some:
            if part.most is not None and part.most < part.least:
                return None
            if part.term is FALSE and part.least:
                return None
            if part.term is TRUE:
                least = max(least, part.start + part.least) if part.least else least
                most = _least_of(most, None if part.most is None else part.start + part.most)
            elif part.term is not FALSE:
                some.append(part)
                least = max(least, part.start + part.least) if part.least else least
        if FALSE in prefix:
            most = _least_of(most, prefix.index(FALSE))
        elif array.rest is FALSE:
            most = _least_of(most, len(prefix))
        if most is not None:
            if most < least:
                return None
            prefix = prefix[:most]
        return Array(
            prefix, array.rest, least, most, tuple(some), array.unique and most not in (0, 1)
        )

    def _negate_array(self, array: Array) -> Iterable[Array]:
        if array.unique:
            raise ConstraintError("The opposite of uniqueItems cannot be enforced.", self.pointer)
        cases = []
        for index, term in enumerate(array.prefix):
            if term is not TRUE:
                prefix = (*(TRUE,) * index, self.negation(term))
                cases.append(Array(prefix, least=index + 1))
        if array.rest is not TRUE:
            cases.append(Array(some=(Some(self.negation(array.rest), len(array.prefix)),)))
        for part in array.some:
            if part.least:
                cases.append(Array(some=(replace(part, least=0, most=part.least - 1),)))
            if part.most is not None:
                cases.append(Array(some=(replace(part, least=part.most + 1, most=None),)))
        if array.least:
            cases.append(Array(most=array.least - 1))
        if array.most is not None:
            cases.append(Array(least=array.most + 1))
        return [case for case in map(self.bounded, cases) if case is not None]

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


def _demands(item: Object) -> _Demands:
    """What an object asks of its named keys, one by one; None stands for being there."""
    asked: set[tuple[str, Term | None]] = set()
    for name, found in item.properties.items():
        term = found.term
        if isinstance(term, Compound) and term.operation == "both":
            asked.update((name, part) for part in term.parts)
        elif term is not TRUE:
            asked.add((name, term))
        if found.required:
            asked.add((name, None))
    return frozenset(asked)


def _is_negation(term: Term) -> TypeGuard[Compound]:
    return isinstance(term, Compound) and term.operation == "not"


def _contradicts(term: Term, terms: dict[Term, None]) -> bool:
    """Whether `term` is the opposite of some of `terms` together."""
    if not _is_negation(term):
        return False
    inner = term.parts[0]
    both = isinstance(inner, Compound) and inner.operation == "both"
    return all(part in terms for part in inner.parts) if both else inner in terms


def _outside(keys: Language, others: list[Language], term: Term) -> list[tuple[Language, Term]]:
    """What of a cell no overlapping cell takes."""
    if not others:
        return [(keys, term)]
    left = both_languages(keys, *map(complement, others))
    return [] if is_empty(left) else [(left, term)]


def _same(case: Case) -> Case:
    return case


def _apart(least: int, most: int | None, other_least: int, other_most: int | None) -> bool:
    return (most is not None and most < other_least) or (
        other_most is not None and other_most < least
    )


def _least_of(a: int | None, b: int | None) -> int | None:
    return b if a is None else a if b is None else min(a, b)


def _countable(item: Object) -> bool:
    """Whether the bounds on the number of keys leave room for what must and may be there."""
    if item.most is not None and (
        item.most < item.least
        or item.most < sum(found.required for found in item.properties.values())
    ):
        return False
    if item.least and item.rest is FALSE and all(term is FALSE for _, term in item.cells):
        return sum(found.term is not FALSE for found in item.properties.values()) >= item.least
    return True
