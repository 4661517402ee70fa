"""Objects: intersection, the opposite, and unions without needless cases."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TypeAlias

from branchwork.runtime.grammar.json_schema.language import Language, complement, words
from branchwork.runtime.grammar.json_schema.language import both as both_languages
from branchwork.runtime.grammar.json_schema.language import either as either_language
from branchwork.runtime.grammar.json_schema.shape import (
    FALSE,
    TRUE,
    Object,
    Property,
    Term,
    least_of,
)
from branchwork.runtime.grammar.json_schema.strings import disjoint, is_empty
from branchwork.runtime.grammar.json_schema.terms import Both, Terms

_Cells: TypeAlias = tuple[tuple[Language, Term], ...]
_Asked: TypeAlias = tuple[Object, frozenset[str], frozenset[tuple[str, Term]]]
"""An object with the keys that must be there, and what it asks of its named keys, one by one."""


class Objects:
    """The algebra of objects over some terms."""

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._implied: dict[tuple[Term, Term], bool] = {}

    def essential(self, cases: Iterable[Object]) -> tuple[Object, ...]:
        """The same union without the cases that others plainly cover."""
        kept: list[_Asked] = []
        for case in cases:
            one = _asked(case)
            if not any(self._covers(other, one) for other in kept):
                kept = [other for other in kept if not self._covers(one, other)] + [one]
        return tuple(case for case, _, _ in kept)

    @staticmethod
    def is_possible(item: Object) -> bool:
        """Whether nothing that must be there plainly cannot be."""
        forced = (found.term is FALSE for found in item.properties.values() if found.required)
        return not any(forced) and _countable(item)

    def meet(self, a: Object, b: Object) -> list[Object]:
        """Objects that are both, as a union (of none, where that is plainly empty)."""
        properties: dict[str, Property] = {}
        for name in (*a.properties, *(name for name in b.properties if name not in a.properties)):
            first, second = a.at(name), b.at(name)
            required = first.required or second.required
            term = self._terms.both(first.term, second.term)
            if required and term is FALSE:
                return []
            properties[name] = Property(term, required)
        cells, rest = self._meet_cells(a, b)
        met = Object(
            properties,
            cells,
            rest,
            max(a.least, b.least),
            least_of(a.most, b.most),
            tuple(dict.fromkeys(a.witnesses + b.witnesses)),
        )
        if not _countable(met):
            return []
        # A closed object names all the keys that a witness can have; an open one may still be closed later.
        return self.settle(met) if met.witnesses and rest is FALSE and not cells else [met]

    def _meet_cells(self, a: Object, b: Object) -> tuple[_Cells, Term]:
        rest = self._terms.both(a.rest, b.rest)
        if not a.cells and not b.cells:
            return (), rest
        cells: list[tuple[Language, Term]] = []
        for keys, term in a.cells:
            shared = [(other, inner) for other, inner in b.cells if not disjoint(keys, other)]
            cells += [
                (both_languages(keys, other), self._terms.both(term, inner))
                for other, inner in shared
            ]
            cells += _outside(keys, [other for other, _ in shared], self._terms.both(term, b.rest))
        for keys, term in b.cells:
            shared_keys = [other for other, _ in a.cells if not disjoint(keys, other)]
            cells += _outside(keys, shared_keys, self._terms.both(term, a.rest))
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
                found.append((both_languages(keys, other), self._terms.both(term, inner)))
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
                with_it = Property(self._terms.both(found.term, term), required=True)
                if with_it.term is not FALSE:
                    named = replace(remaining, properties={**item.properties, name: with_it})
                    cases += self.settle(named) if _countable(named) else []
        unnamed = [
            (both_languages(keys, cell), self._terms.both(term, inner))
            for cell, inner in item.cells
        ]
        outside = (complement(cell) for cell, _ in item.cells)
        unnamed.append((both_languages(keys, *outside), self._terms.both(term, item.rest)))
        for cell, inner in unnamed:
            if inner is not FALSE and not is_empty(cell):
                cases += [
                    replace(case, witnesses=((cell, inner), *case.witnesses))
                    for case in self.settle(remaining)
                ]
        return cases

    def negate(self, item: Object) -> Iterator[Object]:
        """Objects that are not `item`, as a union."""
        for name, found in item.properties.items():
            if found.term is not TRUE:
                yield Object({name: Property(self._terms.negation(found.term), required=True)})
            if found.required:
                yield Object({name: Property(FALSE)})
        named = complement(words(item.properties))
        for keys, term in item.cells:
            if term is not TRUE:
                yield Object(witnesses=((both_languages(keys, named), self._terms.negation(term)),))
        if item.rest is not TRUE:
            keys = both_languages(named, *(complement(cell) for cell, _ in item.cells))
            yield Object(witnesses=((keys, self._terms.negation(item.rest)),))
        for keys, term in item.witnesses:
            yield Object(cells=((keys, self._terms.negation(term)),))
        if item.least:
            yield Object(most=item.least - 1)
        if item.most is not None:
            yield Object(least=item.most + 1)

    def _covers(self, covering: _Asked, covered: _Asked) -> bool:
        """Whether plainly every object of the second is one of the first."""
        (whole, required, demands), (part, there, given) = covering, covered
        if not required <= there:
            return False
        for name, term in demands - given:
            if not self._implies(part.at(name).term, term):
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
        if term is wanted or term is FALSE:
            return True
        known = self._implied.get((term, wanted))
        if known is None:
            known = self._implied[term, wanted] = self._terms.both(term, wanted) is term
        return known


def _asked(item: Object) -> _Asked:
    demands: set[tuple[str, Term]] = set()
    for name, found in item.properties.items():
        if isinstance(found.term, Both):
            demands.update((name, part) for part in found.term.parts)
        elif found.term is not TRUE:
            demands.add((name, found.term))
    required = frozenset(name for name, found in item.properties.items() if found.required)
    return item, required, frozenset(demands)


def _outside(keys: Language, others: list[Language], term: Term) -> list[tuple[Language, Term]]:
    """What of a cell no overlapping cell takes."""
    if not others:
        return [(keys, term)]
    left = both_languages(keys, *map(complement, others))
    return [] if is_empty(left) else [(left, term)]


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
