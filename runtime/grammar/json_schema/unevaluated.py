"""`unevaluatedProperties` and `unevaluatedItems`: a reader that keeps account of what has been evaluated.

Which keys and items a schema evaluates depends on which of its alternatives an instance satisfies. So the schema is
read as cases, in each of which that is decided; in each case the keys and items left over are then as the keyword says
(JSON Schema Core 2020-12, §11).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from branchwork.runtime.grammar.json_schema.arrays import bounded
from branchwork.runtime.grammar.json_schema.document import Json, Place
from branchwork.runtime.grammar.json_schema.language import (
    ALL,
    NOTHING,
    Language,
    Pattern,
    either,
    words,
)
from branchwork.runtime.grammar.json_schema.reader import Reader
from branchwork.runtime.grammar.json_schema.shape import (
    ANY,
    FALSE,
    NONE,
    TRUE,
    Array,
    Object,
    Property,
    Shape,
    Term,
)
from branchwork.runtime.wire.errors import ConstraintError

# Cases of one schema with an unevaluated* keyword.
MAX_TRACKED = 256
# Applicators that add nothing to what is evaluated.
_SILENT = ("enum", "const", "dependentRequired", "not")


@dataclass(frozen=True, slots=True)
class Case:
    """What is admitted, and evaluated: keys, the first `items` (None: all), and the items that `kinds` admit."""

    shape: Shape
    keys: Language = NOTHING
    items: int | None = 0
    kinds: tuple[Term, ...] = ()

    def also(self, other: "Case") -> "Case":
        """The shape of `other`, and what either has evaluated."""
        items = None if self.items is None or other.items is None else max(self.items, other.items)
        return Case(other.shape, either(self.keys, other.keys), items, self.kinds + other.kinds)


class TrackingReader(Reader):
    """A reader that enforces unevaluated* too."""

    def read(self, place: Place, context: Shape = ANY) -> Shape:
        """See Reader."""
        schema = place.schema
        if not isinstance(schema, dict) or not (
            "unevaluatedProperties" in schema or "unevaluatedItems" in schema
        ):
            return super().read(place, context)
        place = self.document.enter(place)
        return self.attempt(place, "unevaluatedProperties", self._leftovers, context)

    def _leftovers(self, place: Place, context: Shape) -> Shape:
        return self.algebra.join(*(self._rest(place, case) for case in self._cases(place, context)))

    def _rest(self, place: Place, case: Case) -> Shape:
        """A case with the keys and items that are not evaluated as the schema at `place` says."""
        schema, shape = place.schema, case.shape
        assert isinstance(schema, dict)
        if "unevaluatedProperties" in schema and case.keys != ALL:
            rest = self.term(place.child("unevaluatedProperties"))
            shape = self.algebra.meet(shape, replace(ANY, objects=(_free(case.keys, rest),)))
        if "unevaluatedItems" in schema and case.items is not None:
            rest = self.algebra.either(self.term(place.child("unevaluatedItems")), *case.kinds)
            array = bounded(Array((TRUE,) * case.items, rest))
            shape = self.algebra.meet(shape, replace(ANY, arrays=() if array is None else (array,)))
        return shape

    def _cases(self, place: Place, context: Shape) -> list[Case]:
        """The schema at a place, without its own unevaluated* keywords, case by case."""
        schema = place.schema
        if not isinstance(schema, dict):
            return _possible(
                [Case(self.algebra.meet(context, self.algebra.shape(self.term(place))))]
            )
        cases = [self._own(place, schema, context)]
        for keyword in _SILENT:
            if keyword in schema:
                cases = [
                    replace(case, shape=self.apply(keyword, place, case.shape)) for case in cases
                ]
        trackers: tuple[tuple[str, Callable[[Place, Case], Iterable[Case]]], ...] = (
            ("$ref", lambda at, case: self._inside(self.target(at), case)),
            ("$dynamicRef", lambda at, case: self._inside(self.dynamic_target(at), case)),
            ("$recursiveRef", lambda at, case: self._inside(self.dynamic_target(at), case)),
            ("allOf", self._track_all),
            ("if", self._track_if),
            ("dependentSchemas", self._track_dependent),
            ("dependencies", self._track_dependent),
            ("oneOf", self._track_one),
            ("anyOf", self._track_any),
        )
        for keyword, track in trackers:
            if keyword in schema:
                cases = _possible(following for case in cases for following in track(place, case))
                if len(cases) > MAX_TRACKED:
                    raise ConstraintError("unevaluated* has too many cases here.", place.pointer)
        return cases

    def _inside(self, place: Place, case: Case) -> list[Case]:
        """The schema at a place in a case; if it has unevaluated* keywords, it leaves nothing unevaluated."""
        schema = place.schema
        with self.algebra.reading(place):
            place = self.document.enter(place)
            cases = self._cases(place, case.shape)
            if isinstance(schema, dict):
                all_keys = "unevaluatedProperties" in schema
                all_items = "unevaluatedItems" in schema
                cases = [
                    Case(
                        self._rest(place, inner),
                        ALL if all_keys else inner.keys,
                        None if all_items else inner.items,
                        inner.kinds,
                    )
                    for inner in cases
                ]
        return [case.also(inner) for inner in cases]

    def _own(self, place: Place, schema: dict[str, Json], context: Shape) -> Case:
        """What the keywords of the single types evaluate."""
        shape = self.algebra.meet(context, self.of_types(place, schema))
        keys = ALL if "additionalProperties" in schema else NOTHING
        declared, patterns = schema.get("properties"), schema.get("patternProperties")
        if isinstance(declared, dict):
            keys = either(keys, words(declared))
        if isinstance(patterns, dict):
            keys = either(keys, *map(Pattern, patterns))
        listed = (
            schema.get("items")
            if isinstance(schema.get("items"), list)
            else schema.get("prefixItems")
        )
        items: int | None = len(listed) if isinstance(listed, list) else 0
        if "additionalItems" in schema or isinstance(schema.get("items"), (dict, bool)):
            items = None
        kinds: tuple[Term, ...] = ()
        if "contains" in schema and self.document.dialect.name == "2020-12":
            kinds = (self.term(place.child("contains")),)
        return Case(shape, keys, items, kinds)

    def _track_all(self, place: Place, case: Case) -> list[Case]:
        cases = [case]
        for option in self.options(place, "allOf"):
            cases = [following for one in cases for following in self._inside(option, one)]
        return cases

    def _track_if(self, place: Place, case: Case) -> list[Case]:
        schema, condition = place.schema, place.child("if")
        assert isinstance(schema, dict)
        branches = [
            ("then", self._inside(condition, case)),
            ("else", [self._without(condition, case)]),
        ]
        return [
            following
            for keyword, cases in branches
            for one in cases
            for following in (
                self._inside(place.child(keyword), one) if keyword in schema else [one]
            )
        ]

    def _track_dependent(self, place: Place, case: Case) -> list[Case]:
        schema, cases = place.schema, [case]
        assert isinstance(schema, dict)
        for keyword in ("dependentSchemas", "dependencies"):
            needs = schema.get(keyword)
            for name in needs if isinstance(needs, dict) else ():
                absent = replace(ANY, objects=(Object({name: Property(FALSE)}),))
                present = replace(NONE, objects=(Object({name: Property(required=True)}),))
                at = place.child(keyword, name)
                if isinstance(at.schema, list):
                    raise ConstraintError("Use dependentRequired beside unevaluated*.", at.pointer)
                cases = [
                    following
                    for one in cases
                    for following in (
                        self._meet(one, absent),
                        *self._inside(at, self._meet(one, present)),
                    )
                ]
        return cases

    def _track_one(self, place: Place, case: Case) -> list[Case]:
        options = self.options(place, "oneOf")
        found: list[Case] = []
        for option in options:
            cases = self._inside(option, case)
            for other in options:
                if other is not option:
                    cases = _possible(self._without(other, one) for one in cases)
            found += cases
        return found

    def _track_any(self, place: Place, case: Case) -> list[Case]:
        """Each set of the options that can hold together, and the others not."""
        undecided, decided = [case], list[Case]()
        for option in self.options(place, "anyOf"):
            held = [following for one in undecided for following in self._inside(option, one)]
            again = [
                following
                for one in decided
                for following in (*self._inside(option, one), self._without(option, one))
            ]
            undecided = [self._without(option, one) for one in undecided]
            decided = _possible([*held, *again])
        return decided

    def _without(self, place: Place, case: Case) -> Case:
        """The case where the schema at a place does not hold."""
        return self._meet(case, self.algebra.negate(self.algebra.shape(self.term(place))))

    def _meet(self, case: Case, shape: Shape) -> Case:
        return replace(case, shape=self.algebra.meet(case.shape, shape))


def _free(keys: Language, rest: Term) -> Object:
    """Objects whose keys outside of a language are `rest`."""
    return (
        Object()
        if keys == ALL
        else Object(cells=((keys, TRUE),) if keys != NOTHING else (), rest=rest)
    )


def _possible(cases: Iterable[Case]) -> list[Case]:
    """The cases that are not plainly empty."""
    return [case for case in cases if replace(case.shape, exact=True) != NONE]
