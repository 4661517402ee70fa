"""From keywords to shapes: each keyword of a schema object narrows what the object admits.

Keywords that bear on one type make one number, string, object or array; applicators (`allOf`, `oneOf`, `if`, …) are
then the operations of the algebra. What cannot be enforced raises ConstraintError with its JSON Pointer in strict
mode; in best effort it is left out, noted, and the shape says that it is not exact.
"""

import functools
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Literal, TypeVar

from branchwork.runtime.grammar.json_schema import own
from branchwork.runtime.grammar.json_schema.algebra import Algebra
from branchwork.runtime.grammar.json_schema.document import Document, Json, Place, escape
from branchwork.runtime.grammar.json_schema.language import ALL, NOTHING, words
from branchwork.runtime.grammar.json_schema.own import array_at, object_at, object_of
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
    Term,
)
from branchwork.runtime.grammar.json_schema.terms import Named
from branchwork.runtime.wire.errors import ConstraintError

Mode = Literal["strict", "best_effort"]
Part = TypeVar("Part")

_NUMERIC, _TEXTUAL, _KEYED, _INDEXED = map(
    frozenset, (own.NUMERIC, own.TEXTUAL, own.KEYED, own.INDEXED)
)
_APPLICATORS = frozenset(
    (
        "$ref", "$dynamicRef", "$recursiveRef", "enum", "const", "allOf", "anyOf", "oneOf", "not", "if",
        "dependentRequired", "dependentSchemas", "dependencies", "unevaluatedProperties", "unevaluatedItems",
    )
)  # fmt: skip
_CONSTRAINING = _NUMERIC | _TEXTUAL | _KEYED | _INDEXED | _APPLICATORS | {"type"}
# Applicators whose cases a context can rule out.
_MULTIPLYING = _APPLICATORS - {"enum", "const", "not"}


class Reader:
    """Reads the schemas of one document into shapes."""

    def __init__(self, document: Document, mode: Mode) -> None:
        self.document = document
        self.warnings: dict[str, None] = {}
        self.algebra = Algebra(self.read)
        self._best_effort = mode == "best_effort"
        self._applicators: dict[str, Callable[[Place, Shape], Shape]] = {
            "$ref": self._ref,
            "$dynamicRef": self._dynamic_ref,
            "$recursiveRef": self._dynamic_ref,
            "enum": self._enum,
            "const": self._const,
            "allOf": self._all_of,
            "if": self._conditional,
            "dependentRequired": self._dependencies,
            "dependentSchemas": self._dependencies,
            "dependencies": self._dependencies,
            "oneOf": self._one_of,
            "anyOf": self._any_of,
            "not": self._not,
        }

    def term(self, place: Place) -> Term:
        """The term for the schema at a place: what it refers to, where it does nothing else."""
        for _ in range(100):
            schema = place.schema
            if schema is True or schema is False:
                return TRUE if schema else FALSE
            if not isinstance(schema, dict):
                raise ConstraintError("A schema must be an object or a boolean.", place.pointer)
            keywords = _CONSTRAINING.intersection(schema)
            if not keywords:
                return TRUE
            only_a_reference = self.document.dialect.ref_hides_siblings or len(keywords) == 1
            if not ("$ref" in keywords and only_a_reference):
                break
            try:
                place = self.target(self.document.enter(place))
            except ConstraintError:
                break  # raised again, or left out, when the term is read
        return self.algebra.named(place)

    def read(self, place: Place, context: Shape = ANY) -> Shape:
        """What the schema object at a place admits of what `context` admits."""
        place = self.document.enter(place)
        schema = object_of(place)
        if "$ref" in schema and self.document.dialect.ref_hides_siblings:
            return self.attempt(place, "$ref", self._ref, context)
        shape = self.algebra.meet(context, self.of_types(place, schema))
        for keyword in self._applicators:
            if keyword in schema:
                shape = self.apply(keyword, place, shape)
        return shape

    def apply(self, keyword: str, place: Place, context: Shape) -> Shape:
        """What an applicator at a place admits of what `context` admits."""
        return self.attempt(place, keyword, self._applicators[keyword], context)

    def attempt(
        self,
        place: Place,
        keyword: str,
        read: Callable[[Place, Shape], Shape],
        context: Shape,
    ) -> Shape:
        """What `read` gives; in best effort, all of `context` where it cannot be enforced."""
        try:
            return read(place, context)
        except ConstraintError as error:
            self.give_up(_placed(error, f"{place.pointer}/{escape(keyword)}"))
            return replace(context, exact=False)

    def give_up(self, error: ConstraintError) -> None:
        """Refuse the schema; in best effort, note what is left out."""
        if not self._best_effort:
            raise error from None
        self.warnings[f"{error.param}: {error}"] = None

    def _within(self, place: Place, context: Shape) -> Shape:
        """What the schema at a place admits of what `context` admits.

        A schema that multiplies out is read anew in its context, in which most of its cases are empty.
        """
        term = self.term(place)
        if not isinstance(term, Named) or context is ANY or not self._multiplies(term.place):
            return self.algebra.meet(context, self.algebra.shape(term))
        return self.algebra.shape_in(term, context)

    def _multiplies(self, place: Place) -> bool:
        schema = place.schema
        return isinstance(schema, dict) and not _MULTIPLYING.isdisjoint(schema)

    # ------------------------------------------------------------ keywords of one type

    def of_types(self, place: Place, schema: dict[str, Json]) -> Shape:
        """What `type` and the keywords that bear on one type admit."""
        types = own.admitted_types(place, schema)
        numbers = _numbers(types)
        strings = ALL if "string" in types else NOTHING
        objects = ANY.objects if "object" in types else ()
        arrays = ANY.arrays if "array" in types else ()
        lost: list[ConstraintError] = []
        if numbers and not _NUMERIC.isdisjoint(schema):
            whole = "number" not in types
            numbers = self._try(lost, lambda: own.numbers_of(place, whole), numbers)
        if strings is ALL and not _TEXTUAL.isdisjoint(schema):
            unknown = functools.partial(self._unknown_format, place)
            strings = self._try(lost, lambda: own.strings_of(place, unknown), strings)
        if objects and not _KEYED.isdisjoint(schema):
            objects = self._try(lost, lambda: own.objects_of(place, self), objects)
        if arrays and not _INDEXED.isdisjoint(schema):
            arrays = self._try(lost, lambda: own.arrays_of(place, self), arrays)
        for error in lost:
            self.give_up(_placed(error, place.pointer))
        boolean = "boolean" in types
        return Shape("null" in types, boolean, boolean, numbers, strings, objects, arrays, not lost)

    def _try(self, lost: list[ConstraintError], read: Callable[[], Part], otherwise: Part) -> Part:
        try:
            return read()
        except ConstraintError as error:
            lost.append(error)
            return otherwise

    def _unknown_format(self, place: Place, name: str) -> None:
        self.warnings[f"{place.pointer}/format: {name!r} is unknown and not enforced."] = None

    # ------------------------------------------------------------ applicators

    def _shape(self, place: Place) -> Shape:
        return self.algebra.shape(self.term(place))

    def options(self, place: Place, keyword: str) -> list[Place]:
        """The schemas listed under a keyword."""
        options = array_at(place, keyword)
        if not options:
            raise ConstraintError(f"{keyword} must not be empty.", f"{place.pointer}/{keyword}")
        return [place.child(keyword, index) for index in range(len(options))]

    def target(self, place: Place) -> Place:
        """Where the `$ref` at a place leads."""
        ref = object_of(place)["$ref"]
        if not isinstance(ref, str):
            raise ConstraintError("$ref must be a string.", f"{place.pointer}/$ref")
        return self.document.resolve(ref, place)

    def _ref(self, place: Place, context: Shape) -> Shape:
        return self._within(self.target(place), context)

    def _dynamic_ref(self, place: Place, context: Shape) -> Shape:
        return self._within(self.dynamic_target(place), context)

    def dynamic_target(self, place: Place) -> Place:
        """Where the `$dynamicRef` at a place leads, if that is the same in every dynamic scope."""
        schema = object_of(place)
        if "$recursiveRef" in schema:
            raise ConstraintError("$recursiveRef is not supported; use $ref.", place.pointer)
        ref = schema["$dynamicRef"]
        if not isinstance(ref, str):
            raise ConstraintError("$dynamicRef must be a string.", f"{place.pointer}/$dynamicRef")
        return self.document.resolve_dynamic(ref, place)

    def _all_of(self, place: Place, context: Shape) -> Shape:
        for option in self.options(place, "allOf"):
            context = self._within(option, context)
        return context

    def _any_of(self, place: Place, context: Shape) -> Shape:
        return self.algebra.join(
            *(self._within(option, context) for option in self.options(place, "anyOf"))
        )

    def _one_of(self, place: Place, context: Shape) -> Shape:
        options = self.options(place, "oneOf")
        shapes = [self._within(option, context) for option in options]
        return self.algebra.one_of(shapes, lambda index: self._shape(options[index]))

    def _not(self, place: Place, context: Shape) -> Shape:
        return self.algebra.meet(context, self.algebra.negate(self._shape(place.child("not"))))

    def _conditional(self, place: Place, context: Shape) -> Shape:
        schema = object_of(place)
        if "then" not in schema and "else" not in schema:
            return context
        condition = self._shape(place.child("if"))
        branches = []
        for keyword, holds in (("then", condition), ("else", self.algebra.negate(condition))):
            branch = self.algebra.meet(context, holds)
            branches.append(
                self._within(place.child(keyword), branch) if keyword in schema else branch
            )
        return self.algebra.join(*branches)

    def _dependencies(self, place: Place, context: Shape) -> Shape:
        for keyword in ("dependentRequired", "dependentSchemas", "dependencies"):
            for name, needs in object_at(place, keyword).items():
                context = self._dependency(place.child(keyword, name), name, needs, context)
        return context

    def _dependency(self, place: Place, name: str, needs: Json, context: Shape) -> Shape:
        """If the key `name` is there, so are other keys, or the object is as a schema says."""
        absent = replace(ANY, objects=(Object({name: Property(FALSE)}),))
        present = replace(NONE, objects=(Object({name: Property(required=True)}),))
        with_it = self.algebra.meet(context, present)
        if isinstance(needs, list):
            wanted = {other: Property(required=True) for other in needs if isinstance(other, str)}
            with_it = self.algebra.meet(with_it, replace(NONE, objects=(Object(wanted),)))
        else:
            with_it = self._within(place, with_it)
        return self.algebra.join(self.algebra.meet(context, absent), with_it)

    # ------------------------------------------------------------ values

    def _enum(self, place: Place, context: Shape) -> Shape:
        values = array_at(place, "enum")
        strings = [value for value in values if isinstance(value, str)]
        others = [self.value(value) for value in values if not isinstance(value, str)]
        listed = self.algebra.join(replace(NONE, strings=words(strings)), *others)
        return self.algebra.meet(context, listed)

    def _const(self, place: Place, context: Shape) -> Shape:
        return self.algebra.meet(context, self.value(object_of(place)["const"]))

    def value(self, value: Json) -> Shape:
        """Exactly one value."""
        if value is None or isinstance(value, bool):
            return replace(NONE, null=value is None, true=value is True, false=value is False)
        if isinstance(value, str):
            return replace(NONE, strings=words((value,)))
        if isinstance(value, list):
            items = tuple(self.algebra.given(self.value(item)) for item in value)
            return replace(NONE, arrays=(Array(items, FALSE, len(items), len(items)),))
        if isinstance(value, dict):
            members = {
                name: Property(self.algebra.given(self.value(member)), required=True)
                for name, member in value.items()
            }
            return replace(NONE, objects=(Object(members, rest=FALSE),))
        return replace(NONE, numbers=(Number(values=frozenset((Fraction(value),))),))


def _numbers(types: frozenset[str]) -> tuple[Number, ...]:
    if "number" in types:
        return (Number(),)
    return (own.WHOLE,) if "integer" in types else ()


def _placed(error: ConstraintError, pointer: str) -> ConstraintError:
    """The error with a pointer, if it has none yet."""
    return (
        error
        if error.param and error.param.startswith("/")
        else ConstraintError(str(error), pointer)
    )
