"""A JSON Schema text as a document: parsed within bounds, its dialect known, its references resolvable.

Only references inside the document resolve; nothing is ever fetched (JSON Schema Core 2020-12, §8 and §9).
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import NoReturn, TypeAlias
from urllib.parse import unquote, urldefrag, urljoin

from branchwork.runtime.wire.errors import ConstraintError

Json: TypeAlias = "bool | int | Fraction | str | list[Json] | dict[str, Json] | None"
"""A parsed value. Numbers are exact: an int when integral, else a Fraction."""

MAX_SCHEMA_BYTES = 2 << 20
# A number with more digits or a larger exponent than this is a denial of service, not a bound.
MAX_NUMBER_DIGITS = 400
_DIALECT = re.compile(
    r"json-schema\.org/(?:draft/)?(?:draft-0?)?(3|4|6|7|2019-09|2020-12)/(?:hyper-)?schema"
)
_OBJECTS_OF_SCHEMAS = frozenset(
    ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies")
)
_DATA = frozenset(("enum", "const", "default", "examples"))


class Place:
    """A schema in the document: the value, and the URI that its references start from."""

    __slots__ = ("_key", "_parent", "base", "schema")

    def __init__(
        self, schema: Json, base: str, parent: "Place | None" = None, key: str | int = ""
    ) -> None:
        self.schema = schema
        self.base = base
        self._parent = parent
        self._key = key

    @property
    def pointer(self) -> str:
        """The JSON Pointer to it (RFC 6901). Worked out when asked for: few places are ever named."""
        segments: list[str] = []
        place = self
        while place._parent is not None:
            segments.append("/" + escape(place._key))
            place = place._parent
        return "".join(reversed(segments))

    def child(self, *keys: str | int) -> "Place":
        """The place that `keys` lead to, which must exist."""
        place = self
        for key in keys:
            place = Place(place.schema[key], self.base, place, key)  # type: ignore[index]
        return place

    def with_base(self, base: str) -> "Place":
        """The same place, with references that start from `base`."""
        return Place(self.schema, base, self._parent, self._key)


@dataclass(frozen=True, slots=True)
class Dialect:
    """What differs between the drafts. A schema that names none is read as 2020-12, old forms included."""

    name: str
    ref_hides_siblings: bool
    id_keyword: str


_DIALECTS = {
    "3": Dialect("draft-3", True, "id"),
    "4": Dialect("draft-4", True, "id"),
    "6": Dialect("draft-6", True, "$id"),
    "7": Dialect("draft-7", True, "$id"),
    "2019-09": Dialect("2019-09", False, "$id"),
    "2020-12": Dialect("2020-12", False, "$id"),
}


def escape(key: str | int) -> str:
    """A key as a segment of a JSON Pointer (RFC 6901)."""
    return str(key).replace("~", "~0").replace("/", "~1")


class Document:
    """One schema text and what its references mean."""

    def __init__(self, text: str) -> None:
        """Parse. Raises ConstraintError for what is not JSON, has a key twice, or is out of bounds."""
        if len(text) > MAX_SCHEMA_BYTES or len(text.encode()) > MAX_SCHEMA_BYTES:
            raise ConstraintError(f"The schema is larger than {MAX_SCHEMA_BYTES} bytes.", "")
        schema = _parse(text)
        self.dialect = _dialect_of(schema)
        if self.dialect.name == "draft-3":
            raise ConstraintError(
                "Draft 3 of JSON Schema is not supported; use draft 4 or later.", "/$schema"
            )
        self.root = Place(schema, self._id_of(schema, "") or "")
        self._resolved: dict[tuple[str, str], Place] = {}
        self._resources: dict[str, Place] | None = None
        self._anchors: dict[tuple[str, str], Place] = {}

    def resolve(self, ref: str, place: Place) -> Place:
        """The place that `ref`, written in the schema at `place`, names. Raises ConstraintError if none."""
        found = self._resolved.get((place.base, ref))
        if found is None:
            found = self._resolved[place.base, ref] = self._find(ref, place)
        return found

    def _find(self, ref: str, place: Place) -> Place:
        uri, fragment = urldefrag(
            urljoin(place.base, ref) if not ref.startswith("#") else place.base + ref
        )
        target = self.root if uri == self.root.base else self._resource(uri)
        if target is None:
            raise ConstraintError(
                f"$ref to {ref!r} leaves the document, and nothing is fetched.",
                f"{place.pointer}/$ref",
            )
        fragment = unquote(fragment)
        found = (
            self._walk(target, fragment)
            if fragment[:1] in ("", "/")
            else self._anchor(uri, fragment)
        )
        if found is None:
            raise ConstraintError(
                f"$ref to {ref!r} names no place in the schema.", f"{place.pointer}/$ref"
            )
        return found

    def resolve_dynamic(self, ref: str, place: Place) -> Place:
        """The place that a `$dynamicRef` names, where the dynamic scope cannot change it."""
        target = self.resolve(ref, place)
        name = urldefrag(ref)[1]
        schema = target.schema
        dynamic = isinstance(schema, dict) and schema.get("$dynamicAnchor") == name
        if dynamic and self._dynamic_anchors()[name] > 1:
            raise ConstraintError(
                f"$dynamicRef to {ref!r} has several targets.", f"{place.pointer}/$dynamicRef"
            )
        return target

    def enter(self, place: Place) -> Place:
        """The same place with the base URI that its own identifier sets."""
        identifier = self._id_of(place.schema, place.base)
        if identifier is None or identifier == place.base:
            return place
        return place.with_base(identifier)

    def _id_of(self, schema: Json, base: str) -> str | None:
        if not isinstance(schema, dict) or (self.dialect.ref_hides_siblings and "$ref" in schema):
            return None
        identifier = schema.get(self.dialect.id_keyword)
        if not isinstance(identifier, str) or identifier.startswith("#"):
            return None
        return urldefrag(urljoin(base, identifier))[0]

    def _walk(self, target: Place, pointer: str) -> Place | None:
        """Follow a JSON Pointer; the base changes where it passes an identifier."""
        place = target
        for segment in pointer.split("/")[1:]:
            key = segment.replace("~1", "/").replace("~0", "~")
            here = place.schema
            if isinstance(here, dict) and key in here:
                place = self.enter(place.child(key))
            elif isinstance(here, list) and key.isdecimal() and int(key) < len(here):
                place = self.enter(place.child(int(key)))
            else:
                return None
        return place

    def _resource(self, uri: str) -> Place | None:
        self._index()
        assert self._resources is not None
        return self._resources.get(uri)

    def _anchor(self, uri: str, name: str) -> Place | None:
        self._index()
        return self._anchors.get((uri, name))

    def _dynamic_anchors(self) -> Counter[str]:
        """How often each name occurs as a dynamic anchor."""
        names = (
            place.schema.get("$dynamicAnchor")
            for place in self._schemas()
            if isinstance(place.schema, dict)
        )
        return Counter(name for name in names if isinstance(name, str))

    def _index(self) -> None:
        """Find every identifier and anchor, once, when a reference first needs one."""
        if self._resources is not None:
            return
        self._resources = {}
        for place in self._schemas():
            schema = place.schema
            assert isinstance(schema, dict)
            if self._id_of(schema, place.base) is not None:
                self._resources.setdefault(place.base, place)
            old_anchor = schema.get(self.dialect.id_keyword)
            if isinstance(old_anchor, str) and old_anchor.startswith("#"):
                self._anchors.setdefault((place.base, old_anchor[1:]), place)
            for keyword in ("$anchor", "$dynamicAnchor"):
                anchor = schema.get(keyword)
                if isinstance(anchor, str):
                    self._anchors.setdefault((place.base, anchor), place)

    def _schemas(self) -> Iterator[Place]:
        """Every object in the document that can be a schema, each with its own base."""
        waiting = [self.root]
        while waiting:
            place = self.enter(waiting.pop())
            schema = place.schema
            if isinstance(schema, list):
                waiting.extend(place.child(i) for i in range(len(schema)))
            if not isinstance(schema, dict):
                continue
            yield place
            for key, value in schema.items():
                if key in _DATA:
                    continue
                if key in _OBJECTS_OF_SCHEMAS and isinstance(value, dict):
                    waiting.extend(place.child(key, name) for name in value)
                else:
                    waiting.append(place.child(key))


def _parse(text: str) -> Json:
    try:
        value: Json = json.loads(
            text,
            object_pairs_hook=_unique_keys,
            parse_float=_exact,
            parse_int=_integer,
            parse_constant=_no_constant,
        )
    except RecursionError:
        raise ConstraintError("The schema is nested too deeply.", "") from None
    except json.JSONDecodeError as error:
        raise ConstraintError(
            f"The schema is not JSON: {error.msg} at line {error.lineno}, column {error.colno}.", ""
        ) from None
    return value


def _unique_keys(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ConstraintError(f"The schema has the key {twice[:80]!r} twice in one object.", "")
    return value


def _exact(text: str) -> int | Fraction:
    exponent = re.split("[eE]", text)[1:] or ["0"]
    if (
        len(text) > MAX_NUMBER_DIGITS
        or len(exponent[0]) > 4
        or abs(int(exponent[0])) > MAX_NUMBER_DIGITS
    ):
        raise ConstraintError(f"The schema has a number with too many digits: {text[:40]}.", "")
    value = Fraction(text)
    return value.numerator if value.denominator == 1 else value


def _integer(text: str) -> int:
    if len(text) > MAX_NUMBER_DIGITS:
        raise ConstraintError(f"The schema has a number with too many digits: {text[:40]}…", "")
    return int(text)


def _no_constant(text: str) -> NoReturn:
    raise ConstraintError(f"The schema is not JSON: {text} is no JSON number.", "")


def _dialect_of(schema: Json) -> Dialect:
    """The dialect that `$schema` names; unknown names (custom metaschemas) are read as the latest."""
    named = schema.get("$schema") if isinstance(schema, dict) else None
    match = _DIALECT.search(named) if isinstance(named, str) else None
    return _DIALECTS[match[1] if match else "2020-12"]
