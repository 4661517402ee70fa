"""As `sglang.srt.constrained.outlines_backend`."""

import json
from typing import Any

from branchwork.lang.holes import of_type
from branchwork.runtime.wire.errors import SetupError
from branchwork.runtime.wire.messages import JsonSchema


def build_regex_from_object(object: Any, whitespace_pattern: str | None = None) -> str:
    """The pattern of the JSON of a type, a pydantic model, or a schema given as text or mapping.

    A pattern cannot hold all that a schema says; `gen(type=…)` and `gen(json_schema=…)` can.
    """
    try:
        # Part of branchwork[runtime]; only this function needs it.
        from outlines_core.json_schema import build_regex_from_schema  # noqa: PLC0415
    except ImportError:
        raise SetupError("build_regex_from_object needs pip install branchwork[runtime]") from None
    if isinstance(object, str):
        schema = object
    elif isinstance(object, dict):
        schema = json.dumps(object)
    else:
        constraint = of_type(object).constraint
        schema = constraint.schema if isinstance(constraint, JsonSchema) else "{}"
    return str(build_regex_from_schema(schema, whitespace_pattern))
