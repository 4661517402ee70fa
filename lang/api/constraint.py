"""What an API that knows no constraints can still be held to: its answer is cut to what meets one, or refused."""

import json
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from branchwork.lang.api.provider import Completion
from branchwork.runtime.wire import messages as wire
from branchwork.runtime.wire.errors import ConstraintError


def response_format(constraint: wire.Constraint | None) -> Mapping[str, Any] | None:
    """OpenAI's `response_format` for a constraint that it can express, None for the others."""
    if isinstance(constraint, wire.JsonSchema):
        schema = {
            "name": "answer",
            "schema": json.loads(constraint.schema),
            "strict": constraint.mode == "strict",
        }
        return {"type": "json_schema", "json_schema": schema}
    if isinstance(constraint, wire.JsonValue) and constraint.kind == "object":
        return {"type": "json_object"}
    if isinstance(constraint, wire.Choices):
        return choice_format(constraint.values)
    return None


def choice_format(choices: tuple[str, ...]) -> Mapping[str, Any]:
    """A format in which the only freedom is which choice is named."""
    schema = {
        "type": "object",
        "properties": {"choice": {"type": "string", "enum": list(choices)}},
        "required": ["choice"],
        "additionalProperties": False,
    }
    return {
        "type": "json_schema",
        "json_schema": {"name": "choice", "schema": schema, "strict": True},
    }


def choice_of(text: str) -> str:
    """The choice that an answer in `choice_format` names."""
    try:
        return str(json.loads(text)["choice"])
    except (ValueError, KeyError, TypeError):
        return text.strip()


def held(completion: Completion, constraint: wire.Constraint | None, api: str) -> Completion:
    """The completion up to where it meets the constraint: an API does not know where to stop.

    Raises ConstraintError where it does not begin with what meets it, or nobody could tell.
    """
    if constraint is None or isinstance(constraint, wire.FreeText):
        return completion
    text = completion.text.lstrip()
    if isinstance(constraint, wire.Regex):
        found = _matched(constraint.pattern, completion.text, text)
        met = found and found.group()
    elif isinstance(constraint, wire.Choices):
        met = next((each for each in constraint.values if text.strip() == each.strip()), None)
    elif isinstance(constraint, wire.JsonSchema | wire.JsonValue):
        met = _first_value(text)
    else:
        raise ConstraintError(f"{api} cannot be held to a constraint of this kind")
    if met is None:
        raise ConstraintError(
            f"{api} cannot be held to this constraint, and answered {completion.text[:60]!r}"
        )
    return msgspec.structs.replace(completion, text=met)


def _matched(pattern: str, *texts: str) -> re.Match[str] | None:
    """Where the first of the texts begins with what the pattern matches. Raises ConstraintError if nobody can tell."""
    try:
        read = re.compile(pattern)
    except re.error as error:
        raise ConstraintError(
            f"the answer cannot be held to {pattern[:60]!r}: {error.msg}", str(error.pos)
        ) from None
    return next((found for text in texts if (found := read.match(text))), None)


def _first_value(text: str) -> str | None:
    """The JSON value that the text begins with."""
    try:
        return text[: json.JSONDecoder().raw_decode(text)[1]]
    except ValueError:
        return None
