"""JSON that is still being written: the value so far, as an object of the type it will have."""

import json
import sys
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import msgspec

_CLOSERS = {"{": "}", "[": "]"}


def complete(text: str) -> str:
    """`text`, the beginning of a JSON value, with its shortest end; a member without value yet is left out.

    Raises ValueError where no value has begun.
    """
    stack: list[str] = []
    in_string = False
    escaped = 0
    safe = 0  # up to here the text can be closed by closers alone
    safe_stack: tuple[str, ...] = ()
    for i, char in enumerate(text):
        if in_string:
            if escaped:
                escaped -= 1
                if char == "u" and text[i - 1] == "\\":
                    escaped = 4
            elif char == "\\":
                escaped = 1
            elif char == '"':
                in_string = False
        elif char == '"':
            in_string = True
        elif char in _CLOSERS:
            stack.append(_CLOSERS[char])
            safe, safe_stack = i + 1, tuple(stack)
        elif char in "]}":
            stack.pop()
            safe, safe_stack = i + 1, tuple(stack)
        elif char == ",":
            safe, safe_stack = i, tuple(stack)
    for attempt in _attempts(text, in_string, escaped, stack):
        try:
            json.loads(attempt)
        except ValueError:
            continue
        return attempt
    if not safe:
        raise ValueError("no value has begun")
    return text[:safe] + "".join(reversed(safe_stack))


def _attempts(text: str, in_string: bool, escaped: int, stack: list[str]) -> list[str]:
    closers = "".join(reversed(stack))
    if not in_string:
        return [text + closers]
    cut = text
    if escaped:
        cut = text[: text.rindex("\\")]
    return [cut + '"' + closers]


def partial_value(text: str, type_: Any) -> Any:
    """The object of `type_` as far as `text` tells it: members that are not told yet are None.

    Raises ValueError where no value has begun.
    """
    return _build(json.loads(complete(text)), type_)


def _build(value: Any, type_: Any) -> Any:
    origin = get_origin(type_)
    if origin in (Union, UnionType):
        return _build_union(value, get_args(type_))
    if isinstance(value, list) and get_args(type_):
        return [_build(item, get_args(type_)[0]) for item in value]
    if isinstance(value, dict) and isinstance(type_, type) and _members(type_):
        return _object(
            {
                key: _build(value[key], hint)
                for key, hint in _members(type_).items()
                if key in value
            },
            type_,
        )
    try:
        return msgspec.convert(value, type_, strict=False)
    except (TypeError, ValueError):
        return value


def _build_union(value: Any, options: tuple[Any, ...]) -> Any:
    fitting = [
        option
        for option in options
        if isinstance(value, dict) and set(value) <= set(_members(option))
    ]
    return _build(value, fitting[0]) if fitting else value


def _members(type_: Any) -> dict[str, Any]:
    if not isinstance(type_, type) or type_.__module__ == "builtins":
        return {}
    try:
        return get_type_hints(type_)
    except (NameError, TypeError):
        return {}


def _object(members: dict[str, Any], type_: type) -> Any:
    """An object that has not been validated: its constructor would ask for what is still to come."""
    if issubclass(type_, dict):
        return members
    pydantic = sys.modules.get("pydantic")
    missing = dict.fromkeys(_members(type_))
    if pydantic is not None and issubclass(type_, pydantic.BaseModel):
        return type_.model_construct(**{**missing, **members})  # type: ignore[attr-defined]
    if issubclass(type_, msgspec.Struct):
        return type_(**{**missing, **members})
    value = object.__new__(type_)
    for name, member in {**missing, **members}.items():
        object.__setattr__(value, name, member)
    return value
