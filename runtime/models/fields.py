"""Fields of a config.json, each held to its type: whatever a folder brings is read or refused."""

import math
from collections.abc import Mapping
from typing import Any

from branchwork.runtime.wire.errors import ModelError


def count(raw: Mapping[str, Any], key: str, default: int | None = None) -> int:
    """A positive integer; `default` where the key is absent or null. Raises ModelError."""
    value: Any = default if raw.get(key) is None else raw[key]
    if type(value) is not int or value < 1:
        raise ModelError(f"config.json: {key} must be a positive integer, found {value!r}")
    return value


def number(raw: Mapping[str, Any], key: str, default: float | None = None) -> float:
    """A positive finite number; `default` where the key is absent or null. Raises ModelError."""
    value: Any = default if raw.get(key) is None else raw[key]
    if type(value) not in (int, float) or not 0 < value < math.inf:
        raise ModelError(f"config.json: {key} must be a positive number, found {value!r}")
    return float(value)


def mapping(raw: Mapping[str, Any], key: str) -> dict[str, Any]:
    """An object, a copy; empty where the key is absent or null. Raises ModelError."""
    value = raw.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ModelError(f"config.json: {key} must be an object, found {value!r}")
    return dict(value)
