"""Fields of a folder's JSON, each held to its type: whatever a folder brings is read or refused.

`file` is where a message says that the field stands.
"""

import sys
from collections.abc import Mapping
from typing import Any

from branchwork.runtime.wire.errors import ModelError


def count(
    raw: Mapping[str, Any], key: str, default: int | None = None, file: str = "config.json"
) -> int:
    """A positive integer; `default` where the key is absent or null. Raises ModelError."""
    value: Any = default if raw.get(key) is None else raw[key]
    if type(value) is not int or value < 1:
        raise ModelError(f"{file}: {key} must be a positive integer, found {value!r}")
    return value


def number(
    raw: Mapping[str, Any], key: str, default: float | None = None, file: str = "config.json"
) -> float:
    """A positive finite number; `default` where the key is absent or null. Raises ModelError."""
    value: Any = default if raw.get(key) is None else raw[key]
    if type(value) not in (int, float) or not 0 < value <= sys.float_info.max:
        raise ModelError(f"{file}: {key} must be a positive number, found {value!r}")
    return float(value)


def flag(raw: Mapping[str, Any], key: str, file: str = "config.json") -> bool:
    """A boolean; False where the key is absent or null. Raises ModelError."""
    value = raw.get(key)
    if value not in (None, False, True) or not isinstance(value, bool | None):
        raise ModelError(f"{file}: {key} must be true or false, found {value!r}")
    return bool(value)


def mapping(raw: Mapping[str, Any], key: str, file: str = "config.json") -> dict[str, Any]:
    """An object, a copy; empty where the key is absent or null. Raises ModelError."""
    value = raw.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ModelError(f"{file}: {key} must be an object, found {value!r}")
    return dict(value)
