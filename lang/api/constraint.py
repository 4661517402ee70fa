"""What an API that knows no constraints can still be held to: the answer is checked, and refused when it is wrong."""

import json
import re
from collections.abc import Mapping
from typing import Any

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


def check(text: str, constraint: wire.Constraint | None, api: str) -> None:
    """Raises ConstraintError where the answer does not meet the constraint, or nobody could tell."""
    if constraint is None or isinstance(constraint, wire.FreeText):
        return
    if isinstance(constraint, wire.Regex):
        met = re.fullmatch(constraint.pattern, text) is not None
    elif isinstance(constraint, wire.Choices):
        met = text in constraint.values
    elif isinstance(constraint, wire.JsonSchema | wire.JsonValue):
        met = _is_json(text)
    else:
        raise ConstraintError(f"{api} cannot be held to a constraint of this kind")
    if not met:
        raise ConstraintError(
            f"{api} cannot be held to this constraint, and answered {text[:60]!r}"
        )


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
