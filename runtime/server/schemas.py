"""JSON schemas as clients mean them: an object that names its properties has no others.

Few clients write `additionalProperties: false`, and none wants keys that it did not name: a function is called with
them. Whoever does says `additionalProperties: true`. What is written under a closed schema is valid under the open one.
"""

from collections.abc import Iterator
from typing import Any

# Words under which, or beside which, a schema describes an object in part only.
_IN_PART = ("allOf", "not", "if", "then", "else", "dependentSchemas", "dependencies", "$dynamicRef")
_UNIONS = ("anyOf", "oneOf", "$ref", "$recursiveRef")
# Words that say themselves what other keys an object has.
_SAID = (
    "additionalProperties",
    "unevaluatedProperties",
    "patternProperties",
    "propertyNames",
    "minProperties",
)
_OF_OBJECTS = ("properties", "required", *_SAID)
_MAPS = ("properties", "$defs", "definitions", "patternProperties")
_LISTS = ("anyOf", "oneOf", "prefixItems", "items")
_SINGLE = ("items", "additionalProperties", "contains", "additionalItems")


def of_arguments(schema: dict[str, Any] | None) -> dict[str, Any] | None:
    """The schema of a tool's arguments: an object, whether or not the client says so. None if it says otherwise."""
    if schema is None:
        return {"type": "object", "properties": {}, "additionalProperties": False}
    kinds = schema.get("type", "object")
    if kinds == "object" or (isinstance(kinds, list) and "object" in kinds):
        return {**schema, "type": "object"}
    return None


def closed(schema: Any) -> Any:
    """`schema`, with every object that names its properties closed to others.

    Left as it is where parts of an object stand in several places (`allOf`, `$ref` beside properties …): none of them
    knows what the others name.
    """
    if any(_is_in_part(each) for each in _subschemas(schema)):
        return schema
    return _closed(schema)


def _closed(schema: Any) -> Any:
    if not isinstance(schema, dict):
        return schema
    made = dict(schema)
    for word in _MAPS:
        if isinstance(inner := made.get(word), dict):
            made[word] = {name: _closed(each) for name, each in inner.items()}
    for word in _LISTS:
        if isinstance(inner := made.get(word), list):
            made[word] = [_closed(each) for each in inner]
    for word in _SINGLE:
        if isinstance(inner := made.get(word), dict):
            made[word] = _closed(inner)
    if _names_all(made):
        made["additionalProperties"] = False
    return made


def _names_all(schema: dict[str, Any]) -> bool:
    """Whether an object's properties are listed, and nothing is said of others."""
    named, required = schema.get("properties"), schema.get("required", ())
    if not isinstance(named, dict) or any(word in schema for word in _SAID):
        return False
    return isinstance(required, list | tuple) and all(name in named for name in required)


def _is_in_part(schema: dict[str, Any]) -> bool:
    if any(word in schema for word in _IN_PART):
        return True
    return any(word in schema for word in _UNIONS) and any(word in schema for word in _OF_OBJECTS)


def _subschemas(schema: Any) -> Iterator[dict[str, Any]]:
    """The schema and all inside it, where schemas stand; not what looks like one in an `enum` or a `default`."""
    level = [schema]
    while level:
        found = [each for each in level if isinstance(each, dict)]
        yield from found
        level = [inner for each in found for inner in _inside(each)]


def _inside(schema: dict[str, Any]) -> Iterator[Any]:
    for word in _MAPS:
        if isinstance(inner := schema.get(word), dict):
            yield from inner.values()
    for word in _LISTS:
        if isinstance(inner := schema.get(word), list):
            yield from inner
    for word in _SINGLE:
        yield schema.get(word)
