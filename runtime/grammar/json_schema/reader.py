"""From keywords to shapes: each keyword of a schema object narrows what the object admits.

Keywords that bear on one type make one number, string, object or array; applicators (`allOf`, `oneOf`, `if`, …) are
then the operations of the algebra. What cannot be enforced raises ConstraintError with its JSON Pointer in strict
mode; in best effort it is left out, noted, and the shape says that it is not exact.
"""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Literal

from branchwork.runtime.grammar.json_schema.algebra import Algebra
from branchwork.runtime.grammar.json_schema.arrays import bounded
from branchwork.runtime.grammar.json_schema.document import Document, Json, Place, escape
from branchwork.runtime.grammar.json_schema.formats import FORMATS
from branchwork.runtime.grammar.json_schema.language import (
    ALL,
    Language,
    Pattern,
    Words,
    both,
    length,
    words,
)
from branchwork.runtime.grammar.json_schema.numbers import drawn_in
from branchwork.runtime.grammar.json_schema.numerals import check_step
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
from branchwork.runtime.grammar.json_schema.strings import text_dfa
from branchwork.runtime.grammar.json_schema.terms import Named
from branchwork.runtime.wire.errors import ConstraintError

Mode = Literal["strict", "best_effort"]

_TYPES = ("null", "boolean", "integer", "number", "string", "object", "array")
_NUMERIC = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_TEXTUAL = ("minLength", "maxLength", "pattern", "format")
_KEYED = (
    "properties", "required", "additionalProperties", "patternProperties", "propertyNames", "minProperties",
    "maxProperties",
)  # fmt: skip
_INDEXED = (
    "items", "prefixItems", "additionalItems", "contains", "minItems", "maxItems", "uniqueItems",
)  # fmt: skip
_APPLICATORS = (
    "$ref", "$dynamicRef", "$recursiveRef", "enum", "const", "allOf", "anyOf", "oneOf", "not", "if",
    "dependentRequired", "dependentSchemas", "dependencies", "unevaluatedProperties", "unevaluatedItems",
)  # fmt: skip
_CONSTRAINING = frozenset((*_NUMERIC, *_TEXTUAL, *_KEYED, *_INDEXED, *_APPLICATORS, "type"))
_MULTIPLYING = frozenset(
    (
        "anyOf",
        "oneOf",
        "if",
        "dependentRequired",
        "dependentSchemas",
        "dependencies",
        "allOf",
        "$ref",
    )
)


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
        schema = _object(place.schema)
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
            if error.param is None or not error.param.startswith("/"):
                error = ConstraintError(str(error), f"{place.pointer}/{escape(keyword)}")
            self.give_up(error)
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
        """What `type` and the keywords of the single types admit."""
        admitted = _admitted_types(place, schema)
        shapes = [ANY]
        for keywords, types, read in (
            (_NUMERIC, ("number", "integer"), self._number),
            (_TEXTUAL, ("string",), self._string),
            (_KEYED, ("object",), self._object),
            (_INDEXED, ("array",), self._array),
        ):
            if any(keyword in schema for keyword in keywords) and not admitted.isdisjoint(types):
                present = next(keyword for keyword in keywords if keyword in schema)
                shapes.append(self.attempt(place, present, read, ANY))
        shape = self.algebra.meet(*shapes) if len(shapes) > 2 else shapes[-1]
        if len(admitted) == len(_TYPES):
            return shape
        numbers = shape.numbers
        if "number" not in admitted:
            whole = (Number(step=Fraction(1)),) if "integer" in admitted else ()
            numbers = self.algebra.meet(
                replace(ANY, numbers=numbers), replace(ANY, numbers=whole)
            ).numbers
        return Shape(
            "null" in admitted,
            "boolean" in admitted,
            "boolean" in admitted,
            numbers,
            shape.strings if "string" in admitted else Words(frozenset()),
            shape.objects if "object" in admitted else (),
            shape.arrays if "array" in admitted else (),
            shape.exact,
        )

    def _number(self, place: Place, _: Shape) -> Shape:
        low = high = step = None
        low_open = high_open = False
        bounds = {
            keyword: _number(place, keyword)
            for keyword in _NUMERIC
            if keyword in _object(place.schema)
        }
        minimum, above = bounds.get("minimum"), bounds.get("exclusiveMinimum")
        maximum, below = bounds.get("maximum"), bounds.get("exclusiveMaximum")
        if isinstance(above, bool):  # draft 4: a flag beside `minimum`
            low, low_open = minimum, above
        else:
            low, low_open = _stricter(minimum, above, max)
        if isinstance(below, bool):
            high, high_open = maximum, below
        else:
            high, high_open = _stricter(maximum, below, min)
        step = bounds.get("multipleOf")
        if step is not None and step <= 0:
            raise ConstraintError(
                "multipleOf must be greater than 0.", f"{place.pointer}/multipleOf"
            )
        check_step(_fraction(step))
        number = drawn_in(
            Number(_fraction(low), low_open, _fraction(high), high_open, _fraction(step))
        )
        return replace(ANY, numbers=() if number is None else (number,))

    def _string(self, place: Place, _: Shape) -> Shape:
        schema = _object(place.schema)
        language = length(_count(place, "minLength") or 0, _count(place, "maxLength"))
        pattern, named = schema.get("pattern"), schema.get("format")
        if pattern is not None:
            language = both(language, self._pattern(pattern, f"{place.pointer}/pattern"))
        if isinstance(named, str):
            if named in FORMATS:
                language = both(language, FORMATS[named])
            else:
                self.warnings[f"{place.pointer}/format: {named!r} is unknown and not enforced."] = (
                    None
                )
        return replace(ANY, strings=language)

    def _pattern(self, source: Json, pointer: str) -> Language:
        if not isinstance(source, str):
            raise ConstraintError("A pattern must be a string.", pointer)
        try:
            text_dfa(Pattern(source))
        except ConstraintError as error:
            raise ConstraintError(f"The pattern cannot be enforced: {error}", pointer) from None
        return Pattern(source)

    def _object(self, place: Place, _: Shape) -> Shape:
        schema = _object(place.schema)
        declared = _object_at(place, "properties")
        patterns = _object_at(place, "patternProperties")
        rest = (
            self.term(place.child("additionalProperties"))
            if "additionalProperties" in schema
            else TRUE
        )
        cells = tuple(
            self.algebra.objects.partition(
                (
                    self._pattern(source, f"{place.pointer}/patternProperties"),
                    self.term(place.child("patternProperties", source)),
                )
                for source in patterns
            )
        )
        by_pattern = Object(cells=cells, rest=rest)
        properties = {}
        for name in declared:
            term = self.term(place.child("properties", name))
            if cells:
                term = self.algebra.both(
                    term, *(inner for keys, inner in cells if keys.contains(name))
                )
            properties[name] = Property(term)
        for name in _strings(place, "required"):
            term = properties[name].term if name in properties else by_pattern.at(name).term
            properties[name] = Property(term, required=True)
        found = Object(
            properties,
            cells,
            rest,
            _count(place, "minProperties") or 0,
            _count(place, "maxProperties"),
        )
        objects = self.algebra.objects.meet(found, Object())
        if "propertyNames" in schema:
            names = self._shape(place.child("propertyNames"))
            keys = _keys_object(names.strings)
            objects = [met for one in objects for met in self.algebra.objects.meet(one, keys)]
        return replace(ANY, objects=tuple(objects))

    def _array(self, place: Place, _: Shape) -> Shape:
        schema = _object(place.schema)
        items = schema.get("items")
        tuple_key = "items" if isinstance(items, list) else "prefixItems"
        prefix: tuple[Term, ...] = ()
        if tuple_key in schema:
            prefix = tuple(
                self.term(place.child(tuple_key, i)) for i in range(len(_array(place, tuple_key)))
            )
        rest_key = "additionalItems" if tuple_key == "items" else "items"
        rest = self.term(place.child(rest_key)) if rest_key in schema else TRUE
        some: tuple[Some, ...] = ()
        if "contains" in schema:
            least = _count(place, "minContains")
            wanted = Some(
                self.term(place.child("contains")),
                0,
                1 if least is None else least,
                _count(place, "maxContains"),
            )
            some = (wanted,) if wanted.least or wanted.most is not None else ()
        unique = schema.get("uniqueItems", False)
        if not isinstance(unique, bool):
            raise ConstraintError("uniqueItems must be a boolean.", f"{place.pointer}/uniqueItems")
        array = bounded(
            Array(
                prefix,
                rest,
                _count(place, "minItems") or 0,
                _count(place, "maxItems"),
                some,
                unique,
            )
        )
        return replace(ANY, arrays=() if array is None else (array,))

    # ------------------------------------------------------------ applicators

    def _shape(self, place: Place) -> Shape:
        return self.algebra.shape(self.term(place))

    def options(self, place: Place, keyword: str) -> list[Place]:
        """The schemas listed under a keyword."""
        options = _array(place, keyword)
        if not options:
            raise ConstraintError(f"{keyword} must not be empty.", f"{place.pointer}/{keyword}")
        return [place.child(keyword, index) for index in range(len(options))]

    def target(self, place: Place) -> Place:
        """Where the `$ref` at a place leads."""
        ref = _object(place.schema)["$ref"]
        if not isinstance(ref, str):
            raise ConstraintError("$ref must be a string.", f"{place.pointer}/$ref")
        return self.document.resolve(ref, place)

    def _ref(self, place: Place, context: Shape) -> Shape:
        return self._within(self.target(place), context)

    def _dynamic_ref(self, place: Place, context: Shape) -> Shape:
        return self._within(self.dynamic_target(place), context)

    def dynamic_target(self, place: Place) -> Place:
        """Where the `$dynamicRef` at a place leads, if that is the same in every dynamic scope."""
        schema = _object(place.schema)
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
        schema = _object(place.schema)
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
            for name, needs in _object_at(place, keyword).items():
                context = self._dependency(place.child(keyword, name), name, needs, context)
        return context

    def _dependency(self, place: Place, name: str, needs: Json, context: Shape) -> Shape:
        """If the key `name` is there, so are other keys, or the object is as a schema says."""
        absent = replace(ANY, objects=(Object({name: Property(FALSE)}),))
        present = replace(NONE, objects=(Object({name: Property(required=True)}),))
        with_it = self.algebra.meet(context, present)
        if isinstance(needs, list):
            wanted = {}
            for other in needs:
                if not isinstance(other, str):
                    raise ConstraintError(
                        "A dependency must be an array of strings or a schema.", place.pointer
                    )
                wanted[other] = Property(required=True)
            with_it = self.algebra.meet(with_it, replace(NONE, objects=(Object(wanted),)))
        else:
            with_it = self._within(place, with_it)
        return self.algebra.join(self.algebra.meet(context, absent), with_it)

    # ------------------------------------------------------------ values

    def _enum(self, place: Place, context: Shape) -> Shape:
        values = _array(place, "enum")
        strings = [value for value in values if isinstance(value, str)]
        others = [self.value(value) for value in values if not isinstance(value, str)]
        listed = self.algebra.join(replace(NONE, strings=words(strings)), *others)
        return self.algebra.meet(context, listed)

    def _const(self, place: Place, context: Shape) -> Shape:
        return self.algebra.meet(context, self.value(_object(place.schema)["const"]))

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


def _keys_object(keys: Language) -> Object:
    """Objects with all their keys in a language."""
    if keys == ALL:
        return Object()
    if isinstance(keys, Words):
        return Object({name: Property() for name in sorted(keys.words)}, rest=FALSE)
    return Object(cells=((keys, TRUE),), rest=FALSE)


def _admitted_types(place: Place, schema: dict[str, Json]) -> frozenset[str]:
    named = schema.get("type", list(_TYPES))
    types = named if isinstance(named, list) else [named]
    for name in types:
        if name not in _TYPES:
            raise ConstraintError(f"{name!r} is not a type.", f"{place.pointer}/type")
    return frozenset(str(name) for name in types)


def _object(value: Json) -> dict[str, Json]:
    assert isinstance(value, dict), value
    return value


def _object_at(place: Place, keyword: str) -> dict[str, Json]:
    found = _object(place.schema).get(keyword, {})
    if not isinstance(found, dict):
        raise ConstraintError(f"{keyword} must be an object.", f"{place.pointer}/{keyword}")
    return found


def _array(place: Place, keyword: str) -> list[Json]:
    found = _object(place.schema)[keyword]
    if not isinstance(found, list):
        raise ConstraintError(f"{keyword} must be an array.", f"{place.pointer}/{keyword}")
    return found


def _strings(place: Place, keyword: str) -> list[str]:
    found = _array(place, keyword) if keyword in _object(place.schema) else []
    strings = [item for item in found if isinstance(item, str)]
    if len(strings) < len(found):
        raise ConstraintError(
            f"{keyword} must be an array of strings.", f"{place.pointer}/{keyword}"
        )
    return strings


def _count(place: Place, keyword: str) -> int | None:
    found = _object(place.schema).get(keyword)
    if found is None and keyword not in _object(place.schema):
        return None
    if isinstance(found, bool) or not isinstance(found, int) or found < 0:
        raise ConstraintError(
            f"{keyword} must be a whole number of at least 0.", f"{place.pointer}/{keyword}"
        )
    return found


def _number(place: Place, keyword: str) -> int | Fraction | bool:
    found = _object(place.schema)[keyword]
    flag = isinstance(found, bool) and keyword.startswith("exclusive")
    if not isinstance(found, (int, Fraction)) or (isinstance(found, bool) and not flag):
        raise ConstraintError(f"{keyword} must be a number.", f"{place.pointer}/{keyword}")
    return found


def _fraction(value: int | Fraction | None) -> Fraction | None:
    return None if value is None else Fraction(value)


def _stricter(
    closed: int | Fraction | None,
    opened: int | Fraction | None,
    strictest: Callable[..., int | Fraction],
) -> tuple[int | Fraction | None, bool]:
    """One bound of an inclusive and an exclusive one, and whether it is exclusive."""
    if closed is None or opened is None:
        return (opened, True) if closed is None and opened is not None else (closed, False)
    bound = strictest(closed, opened)
    return bound, bound == opened
