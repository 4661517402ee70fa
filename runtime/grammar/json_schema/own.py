"""The keywords that bear on one type of value: on numbers, strings, objects or arrays."""

from collections.abc import Callable
from fractions import Fraction
from typing import Protocol

from branchwork.runtime.grammar.json_schema.algebra import Algebra
from branchwork.runtime.grammar.json_schema.arrays import bounded
from branchwork.runtime.grammar.json_schema.document import Json, Place
from branchwork.runtime.grammar.json_schema.formats import FORMATS
from branchwork.runtime.grammar.json_schema.language import (
    ALL,
    Language,
    Pattern,
    Words,
    both,
    length,
)
from branchwork.runtime.grammar.json_schema.numbers import drawn_in, meet_numbers
from branchwork.runtime.grammar.json_schema.numerals import MAX_REMAINDERS, remainders_of
from branchwork.runtime.grammar.json_schema.shape import (
    FALSE,
    TRUE,
    Array,
    Number,
    Object,
    Property,
    Some,
    Term,
)
from branchwork.runtime.grammar.json_schema.strings import text_dfa
from branchwork.runtime.wire.errors import ConstraintError

NUMERIC = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
TEXTUAL = ("minLength", "maxLength", "pattern", "format")
TYPES = ("null", "boolean", "integer", "number", "string", "object", "array")
KEYED = (
    "properties", "required", "additionalProperties", "patternProperties", "propertyNames", "minProperties",
    "maxProperties",
)  # fmt: skip
INDEXED = (
    "items", "prefixItems", "additionalItems", "contains", "minItems", "maxItems", "uniqueItems",
)  # fmt: skip


WHOLE = Number(step=Fraction(1))


class Schemas(Protocol):
    """What reads the inner schemas."""

    algebra: Algebra

    def term(self, place: Place) -> Term:
        """The term for the schema at a place."""
        ...


def numbers_of(place: Place, whole: bool) -> tuple[Number, ...]:
    """The numbers that the numeric keywords admit; `whole`: only integers."""
    schema = object_of(place)
    bounds = {keyword: _number(place, keyword) for keyword in NUMERIC if keyword in schema}
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
    step = _fraction(bounds.get("multipleOf"))
    if step is not None:
        _check_step(step, f"{place.pointer}/multipleOf")
    found = drawn_in(Number(_fraction(low), low_open, _fraction(high), high_open, step))
    if whole and found is not None:
        found = meet_numbers(found, WHOLE)
    return () if found is None else (found,)


def _check_step(step: Fraction, pointer: str) -> None:
    """Raise ConstraintError for a `multipleOf` that is none, or has too many remainders."""
    if step <= 0:
        raise ConstraintError("multipleOf must be greater than 0.", pointer)
    if remainders_of(step) > MAX_REMAINDERS:
        raise ConstraintError("multipleOf has too many digits to be enforced.", pointer)


def strings_of(place: Place, unknown: Callable[[str], None]) -> Language:
    """The strings that the textual keywords admit; `unknown` is told the name of an unknown format."""
    schema = object_of(place)
    language = length(_count(place, "minLength") or 0, _count(place, "maxLength"))
    pattern, named = schema.get("pattern"), schema.get("format")
    if pattern is not None:
        language = both(language, _pattern(pattern, f"{place.pointer}/pattern"))
    if isinstance(named, str):
        if named in FORMATS:
            language = both(language, FORMATS[named])
        else:
            unknown(named)
    return language


def _pattern(source: Json, pointer: str) -> Language:
    if not isinstance(source, str):
        raise ConstraintError("A pattern must be a string.", pointer)
    try:
        text_dfa(Pattern(source))
    except ConstraintError as error:
        raise ConstraintError(f"The pattern cannot be enforced: {error}", pointer) from None
    return Pattern(source)


def objects_of(place: Place, schemas: Schemas) -> tuple[Object, ...]:
    """The objects that the keywords on keys admit."""
    schema, algebra = object_of(place), schemas.algebra.objects
    free = "additionalProperties"
    rest = schemas.term(place.child(free)) if free in schema else TRUE
    cells = _cells(place, schemas) if "patternProperties" in schema else ()
    properties = {}
    for name in object_at(place, "properties"):
        term = schemas.term(place.child("properties", name))
        matching = [inner for keys, inner in cells if keys.contains(name)]
        properties[name] = Property(schemas.algebra.both(term, *matching) if matching else term)
    unnamed = Object(cells=cells, rest=rest)
    for name in strings_at(place, "required"):
        found = properties.get(name) or unnamed.at(name)
        properties[name] = Property(found.term, required=True)
    least, most = _count(place, "minProperties") or 0, _count(place, "maxProperties")
    whole = Object(properties, cells, rest, least, most)
    if not algebra.is_possible(whole):
        return ()
    if "propertyNames" not in schema:
        return (whole,)
    names = schemas.algebra.shape(schemas.term(place.child("propertyNames"))).strings
    return tuple(algebra.meet(whole, _keys_object(names)))


def _cells(place: Place, schemas: Schemas) -> tuple[tuple[Language, Term], ...]:
    pointer = f"{place.pointer}/patternProperties"
    return tuple(
        schemas.algebra.objects.partition(
            (_pattern(source, pointer), schemas.term(place.child("patternProperties", source)))
            for source in object_at(place, "patternProperties")
        )
    )


def _keys_object(keys: Language) -> Object:
    """Objects with all their keys in a language."""
    if keys == ALL:
        return Object()
    if isinstance(keys, Words):
        return Object({name: Property() for name in sorted(keys.words)}, rest=FALSE)
    return Object(cells=((keys, TRUE),), rest=FALSE)


def arrays_of(place: Place, schemas: Schemas) -> tuple[Array, ...]:
    """The arrays that the keywords on items admit."""
    schema = object_of(place)
    listed = "items" if isinstance(schema.get("items"), list) else "prefixItems"
    uniform = "additionalItems" if listed == "items" else "items"
    places = (place.child(listed, i) for i in range(len(array_at(place, listed))))
    prefix = tuple(schemas.term(item) for item in places)
    rest = schemas.term(place.child(uniform)) if uniform in schema else TRUE
    some: tuple[Some, ...] = ()
    if "contains" in schema:
        least, most = _count(place, "minContains"), _count(place, "maxContains")
        some = (
            Some(schemas.term(place.child("contains")), 0, 1 if least is None else least, most),
        )
    unique = schema.get("uniqueItems", False)
    if not isinstance(unique, bool):
        raise ConstraintError("uniqueItems must be a boolean.", f"{place.pointer}/uniqueItems")
    fewest, most = _count(place, "minItems") or 0, _count(place, "maxItems")
    array = bounded(Array(prefix, rest, fewest, most, some, unique))
    return () if array is None else (array,)


def admitted_types(place: Place, schema: dict[str, Json]) -> frozenset[str]:
    """The types that `type` names; all of them where it is absent."""
    named = schema.get("type", list(TYPES))
    types = named if isinstance(named, list) else [named]
    for name in types:
        if name not in TYPES:
            raise ConstraintError(f"{name!r} is not a type.", f"{place.pointer}/type")
    return frozenset(str(name) for name in types)


def object_of(place: Place) -> dict[str, Json]:
    """The schema at a place that is known to be an object."""
    assert isinstance(place.schema, dict), place
    return place.schema


def object_at(place: Place, keyword: str) -> dict[str, Json]:
    """The object under a keyword; empty where the keyword is absent."""
    found = object_of(place).get(keyword, {})
    if not isinstance(found, dict):
        raise ConstraintError(f"{keyword} must be an object.", f"{place.pointer}/{keyword}")
    return found


def array_at(place: Place, keyword: str) -> list[Json]:
    """The array under a keyword; empty where the keyword is absent."""
    found = object_of(place).get(keyword, [])
    if not isinstance(found, list):
        raise ConstraintError(f"{keyword} must be an array.", f"{place.pointer}/{keyword}")
    return found


def strings_at(place: Place, keyword: str) -> list[str]:
    """The strings listed under a keyword."""
    found = array_at(place, keyword)
    strings = [item for item in found if isinstance(item, str)]
    if len(strings) < len(found):
        raise ConstraintError(
            f"{keyword} must be an array of strings.", f"{place.pointer}/{keyword}"
        )
    return strings


def _count(place: Place, keyword: str) -> int | None:
    found = object_of(place).get(keyword)
    if found is None and keyword not in object_of(place):
        return None
    if isinstance(found, bool) or not isinstance(found, int) or found < 0:
        raise ConstraintError(
            f"{keyword} must be a whole number of at least 0.", f"{place.pointer}/{keyword}"
        )
    return found


def _number(place: Place, keyword: str) -> int | Fraction | bool:
    found = object_of(place)[keyword]
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
