"""Every way to say what an answer must look like, as one `Constraint` of the wire, or none.

Two at once are refused: which of them should hold would be a guess.
"""

from typing import Any, NamedTuple

import msgspec

from branchwork.runtime.server.errors import ApiError
from branchwork.runtime.server.fields import Constraining, ResponseFormat, StructuredOutputs
from branchwork.runtime.server.schemas import closed
from branchwork.runtime.server.validate import convert, parse
from branchwork.runtime.wire.messages import (
    Choices,
    Constraint,
    Ebnf,
    JsonSchema,
    JsonValue,
    Regex,
    StructuralTags,
    Tag,
)


class Wanted(NamedTuple):
    """What holds an answer, and the field of the request that asked for it: errors name it."""

    constraint: Constraint | None = None
    field: str | None = None


class Reading:
    """Reads the constraint of one request, within the server's bound on its size."""

    def __init__(
        self, max_bytes: int, any_whitespace: bool = False, any_order: bool = False
    ) -> None:
        self.max_bytes = max_bytes
        self.any_whitespace = any_whitespace
        self.any_order = any_order

    def wanted(self, fields: Constraining) -> Wanted:
        """The one constraint that `fields` name. Raises ApiError (400) for two, or one out of bounds.

        Clients that do not know which server they have say one thing in the words of several.
        """
        found = [
            *self._format(fields.response_format),
            *self._group(fields.structured_outputs),
            *self._own(fields),
        ]
        for name, constraint in found[1:]:
            if constraint != found[0][1]:
                raise ApiError(f"give {found[0][0]} or {name}, not both", param=name)
        return Wanted(found[0][1], found[0][0]) if found else Wanted()

    def _own(self, fields: Constraining) -> list[tuple[str, Constraint]]:
        found: list[tuple[str, Constraint]] = []
        for name in ("json_schema", "guided_json"):
            if (schema := getattr(fields, name)) is not None:
                found.append((name, self.schema(schema, name)))
        for name in ("regex", "guided_regex"):
            if (pattern := getattr(fields, name)) is not None:
                found.append((name, Regex(self._text(pattern, name))))
        for name in ("ebnf", "guided_grammar"):
            if (grammar := getattr(fields, name)) is not None:
                found.append((name, Ebnf(self._text(grammar, name))))
        for name in ("choices", "guided_choice"):
            if (choices := getattr(fields, name)) is not None:
                found.append((name, self._choices(choices, name)))
        return found

    def _group(self, group: StructuredOutputs | None) -> list[tuple[str, Constraint]]:
        if group is None:
            return []
        if group.disable_any_whitespace is False:
            self.any_whitespace = True
        self.any_order = self.any_order or bool(group.any_order)
        at = "structured_outputs"
        found: list[tuple[str, Constraint]] = []
        if group.json is not None:
            found.append((f"{at}.json", self.schema(group.json, f"{at}.json")))
        if group.regex is not None:
            found.append((f"{at}.regex", Regex(self._text(group.regex, f"{at}.regex"))))
        if group.choice is not None:
            found.append((f"{at}.choice", self._choices(group.choice, f"{at}.choice")))
        if group.grammar is not None:
            found.append((f"{at}.grammar", Ebnf(self._text(group.grammar, f"{at}.grammar"))))
        if group.json_object:
            found.append((f"{at}.json_object", JsonValue("object", self._whitespace)))
        if group.structural_tag is not None:
            tag = group.structural_tag
            value = parse(tag.encode(), f"{at}.structural_tag") if isinstance(tag, str) else tag
            shape = convert(value, ResponseFormat, f"{at}.structural_tag")
            found.append((f"{at}.structural_tag", self._tags(shape, f"{at}.structural_tag")))
        return found

    def _format(self, shape: ResponseFormat | None) -> list[tuple[str, Constraint]]:
        at = "response_format"
        if shape is None or shape.type == "text":
            return []
        if shape.type == "json_object":
            if shape.schema is not None:
                return [(at, self.schema(shape.schema, f"{at}.schema"))]
            return [(at, JsonValue("object", self._whitespace))]
        if shape.type == "json_schema":
            named = shape.json_schema
            if named is None or named.schema is None:
                missing = f"{at}.json_schema" + ("" if named is None else ".schema")
                raise ApiError(f"{missing} is required", param=missing, code="missing_parameter")
            strict = named.strict is not False
            return [(at, self.schema(named.schema, f"{at}.json_schema.schema", strict))]
        if shape.type == "structural_tag":
            return [(at, self._tags(shape, at))]
        raise ApiError(
            f"{at}.type must be text, json_object, json_schema or structural_tag",
            param=f"{at}.type",
        )

    def schema(self, schema: Any, at: str, strict: bool = True) -> JsonSchema:
        """A JSON Schema, given as JSON or as its text."""
        if isinstance(schema, str):
            self._text(schema, at)
            schema = parse(schema.encode(), at)
            if not isinstance(schema, dict | bool):
                raise ApiError(f"{at} must be an object or a boolean", param=at)
        text = msgspec.json.encode(schema).decode()
        self._size(len(text.encode()), at)
        return JsonSchema(
            msgspec.json.encode(closed(schema)).decode(),
            "strict" if strict else "best_effort",
            self._whitespace,
            "any" if self.any_order else "declared",
        )

    @property
    def _whitespace(self) -> Any:
        return "any" if self.any_whitespace else "fixed"

    def _tags(self, shape: ResponseFormat, at: str) -> StructuralTags:
        if not shape.structures or not shape.triggers:
            raise ApiError(f"{at} needs structures and triggers", param=at)
        tags = tuple(
            Tag(
                self._text(structure.begin, f"{at}.structures[{i}].begin"),
                self.schema(
                    True if structure.schema is None else structure.schema,
                    f"{at}.structures[{i}].schema",
                ),
                self._text(structure.end, f"{at}.structures[{i}].end"),
            )
            for i, structure in enumerate(shape.structures)
        )
        return StructuralTags(tags, tuple(shape.triggers))

    def _choices(self, values: list[str], at: str) -> Choices:
        if not values or not all(values):
            raise ApiError(f"{at} must hold at least one text, and no empty one", param=at)
        self._size(sum(len(value) for value in values), at)
        return Choices(tuple(values))

    def _text(self, text: str, at: str) -> str:
        if not text:
            raise ApiError(f"{at} must not be empty", param=at)
        self._size(len(text.encode()), at)
        return text

    def _size(self, size: int, at: str) -> None:
        if size > self.max_bytes:
            raise ApiError(
                f"{at} has {size} bytes, the server takes {self.max_bytes} (--max-schema-bytes)",
                param=at,
                code="too_large",
            )
