"""Everything that a schema leads to, and which of it can be written at all.

The shapes that the root reaches are worked out one after another. Then the terms that some finite value satisfies are
found (a least fixpoint): a property that cannot be satisfied is forbidden, an alternative that needs one is dropped,
and generation never walks into a place that it cannot leave.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

from branchwork.runtime.grammar.json_schema.algebra import Algebra
from branchwork.runtime.grammar.json_schema.arrays import bounded
from branchwork.runtime.grammar.json_schema.numerals import numeral_dfa
from branchwork.runtime.grammar.json_schema.shape import (
    FALSE,
    Array,
    Number,
    Object,
    Shape,
    Some,
    Term,
)
from branchwork.runtime.grammar.json_schema.strings import is_empty
from branchwork.runtime.grammar.json_schema.terms import Both, Either, Named, Opposite
from branchwork.runtime.wire.errors import ConstraintError

# Schemas that one constraint may lead to.
MAX_TERMS = 50_000
# Items before the uniform rest that may or may not be what `contains` wants: each doubles the cases.
MAX_SPREAD = 6


class Closure:
    """The shapes that `root` reaches, made ready to be written; `fruitful` holds the terms with a finite value."""

    def __init__(
        self, algebra: Algebra, root: Term, give_up: Callable[[ConstraintError], None]
    ) -> None:
        """`give_up` is told what cannot be enforced; if it returns, more is admitted."""
        self.algebra = algebra
        self._give_up = give_up
        self.root = root
        self.shapes: dict[Term, Shape] = {}
        self.fruitful: set[Term] = set()
        self._reach()
        self._find_fruitful()

    def pointer(self, term: Term) -> str:
        """Where a term stands in the document, as well as can be said."""
        while isinstance(term, Both | Either | Opposite):
            term = term.inner if isinstance(term, Opposite) else term.parts[0]
        return term.place.pointer if isinstance(term, Named) else ""

    def _reach(self) -> None:
        waiting = [self.root]
        while waiting:
            term = waiting.pop()
            if term in self.shapes or term is FALSE:
                continue
            if len(self.shapes) >= MAX_TERMS:
                raise ConstraintError(
                    "The schema leads to too many different schemas.", self.pointer(term)
                )
            shape = self.shapes[term] = self._ready(term, self.algebra.shape(term))
            for item in shape.objects:
                waiting.extend(_members(item))
            for array in shape.arrays:
                waiting.extend(self.items(array))

    def _ready(self, term: Term, shape: Shape) -> Shape:
        """The shape with its witnesses and its `contains` in the forms that can be written."""
        numbers = tuple(self._writable(number, term) for number in shape.numbers)
        objects, arrays = shape.objects, shape.arrays
        if any(item.witnesses for item in objects):
            objects = tuple(self._settled(objects, term))
        if any(array.some for array in arrays):
            arrays = tuple(case for array in arrays for case in self._spread(array, term))
        if objects is shape.objects and arrays is shape.arrays and numbers == shape.numbers:
            return shape
        return replace(shape, numbers=numbers, objects=objects, arrays=arrays)

    def _writable(self, number: Number, term: Term) -> Number:
        """`number` without its steps, where they have too many remainders together."""
        try:
            numeral_dfa(number)
        except ConstraintError as error:
            self._give_up(ConstraintError(str(error), self.pointer(term)))
            return replace(number, step=None, off_steps=frozenset())
        return number

    def _settled(self, objects: tuple[Object, ...], term: Term) -> Iterator[Object]:
        for case in (case for item in objects for case in self.algebra.objects.settle(item)):
            if case.witnesses:
                message = "That some undeclared key must exist cannot be enforced."
                self._give_up(ConstraintError(message, self.pointer(term)))
                case = replace(case, witnesses=())
            yield case

    def _spread(self, array: Array, term: Term) -> Iterator[Array]:
        """The union of arrays that are `array`, each with its `contains` beginning where its prefix ends."""
        if not array.some:
            yield array
            return
        some = array.some[0]
        prefix = array.prefix + (array.rest,) * (some.start - len(array.prefix))
        if len(array.some) > 1:
            message = "Two `contains` on the same array cannot be enforced together."
            self._give_up(ConstraintError(message, self.pointer(term)))
        if len(prefix) - some.start > MAX_SPREAD:
            message = f"`contains` beside more than {MAX_SPREAD} prefix items cannot be enforced."
            self._give_up(ConstraintError(message, self.pointer(term)))
            yield replace(array, some=())
            return
        yield from self._decide(replace(array, prefix=prefix, some=()), some, some.start)

    def _decide(self, array: Array, some: Some, index: int) -> Iterator[Array]:
        """Whether each item of the prefix from `index` on is there, and is what is wanted."""
        if some.least <= 0 and some.most is None:
            yield array
            return
        if some.most is not None and some.most < 0:
            return
        if index == len(array.prefix):
            yield replace(array, some=(replace(some, start=index, least=max(0, some.least)),))
            return
        if some.least <= 0 and array.least <= index:
            yield replace(array, prefix=array.prefix[:index], most=index)
        here = array.prefix[index]
        for wanted in (True, False):
            term = self.algebra.both(
                here, some.term if wanted else self.algebra.negation(some.term)
            )
            prefix = (*array.prefix[:index], term, *array.prefix[index + 1 :])
            taken = replace(array, prefix=prefix, least=max(array.least, index + 1))
            drawn = bounded(taken)
            if drawn is not None:
                left = replace(
                    some,
                    least=some.least - wanted,
                    most=None if some.most is None else some.most - wanted,
                )
                yield from self._decide(drawn, left, index + 1)

    def items(self, array: Array) -> tuple[Term, ...]:
        """The terms of an array: its prefix, what else may follow, and what is counted."""
        if not array.some:
            return (*array.prefix, array.rest)
        return (*array.prefix, self.uncounted(array), self.counted(array))

    def counted(self, array: Array) -> Term:
        """The items after the prefix that `contains` counts."""
        return self.algebra.both(array.rest, array.some[0].term)

    def uncounted(self, array: Array) -> Term:
        """The items after the prefix that `contains` does not count."""
        return self.algebra.both(array.rest, self.algebra.negation(array.some[0].term))

    # ------------------------------------------------------------ fruitful terms

    def _find_fruitful(self) -> None:
        waiting = list(self.shapes)
        changed = True
        while changed:
            # Bottom up: what was reached last leads nowhere else, mostly.
            unfruitful = [term for term in reversed(waiting) if not self._has_value(term)]
            changed = len(unfruitful) < len(waiting)
            waiting = unfruitful[::-1]

    def _has_value(self, term: Term) -> bool:
        shape = self.shapes[term]
        if (
            shape.null
            or shape.true
            or shape.false
            or not is_empty(shape.strings)
            or any(not numeral_dfa(number).is_empty for number in shape.numbers)
            or any(self.object_has_value(item) for item in shape.objects)
            or any(self.array_has_value(array) for array in shape.arrays)
        ):
            self.fruitful.add(term)
            return True
        return False

    def object_has_value(self, item: Object) -> bool:
        """Whether all that must be there can be."""
        possible = 0
        for found in item.properties.values():
            if found.term in self.fruitful:
                possible += 1
            elif found.required:
                return False
        return (
            possible >= item.least
            or item.rest in self.fruitful
            or any(term in self.fruitful for _, term in item.cells)
        )

    def array_has_value(self, array: Array) -> bool:
        """Whether the least number of items can be written."""
        least, prefix = array.least, len(array.prefix)
        if any(array.prefix[index] not in self.fruitful for index in range(min(least, prefix))):
            return False
        if not array.some:
            return least <= prefix or array.rest in self.fruitful
        some = array.some[0]
        counted, uncounted = (
            self.counted(array) in self.fruitful,
            self.uncounted(array) in self.fruitful,
        )
        if some.least and not counted:
            return False
        needed = max(least - prefix, some.least)
        most_counted = needed if some.most is None else some.most
        return needed <= 0 or uncounted or (counted and needed <= most_counted)


def _members(item: Object) -> Iterator[Term]:
    for found in item.properties.values():
        yield found.term
    for _, term in item.cells:
        yield term
    yield item.rest
