"""From a body's bytes to a typed request: the one way in for every route.

Whatever the bytes are, the answer is a request or an `ApiError` with status 4xx: never another exception.
"""

import difflib
from collections.abc import Iterator
from functools import cache
from typing import Any, TypeVar

import msgspec

from branchwork.runtime.server.errors import ApiError

Request = TypeVar("Request", bound=msgspec.Struct)

MAX_DEPTH = 128


def decode(body: bytes, kind: type[Request]) -> Request:
    """The request that `body` holds, as JSON. Raises ApiError (400) naming the field."""
    value = parse(body)
    if not isinstance(value, dict):
        raise ApiError("the body must be a JSON object", code="invalid_json")
    _refuse_typos(value, kind)
    return convert(value, kind)


def parse(body: bytes, param: str | None = None) -> Any:
    """Any JSON value, with nothing in it that a tokenizer or a template could choke on.

    `param` is the field whose text it is; None: the body itself. Raises ApiError (400).
    """
    name = param or "the body"
    try:
        value = msgspec.json.decode(body)
    except RecursionError:
        trouble = "is nested too deeply"
    except UnicodeDecodeError as error:
        trouble = f"is not UTF-8 (byte {error.start})"
    except msgspec.DecodeError as error:
        trouble = f"is not JSON: {str(error).partition(' - at')[0].lower()}"
    else:
        trouble = _trouble(value, b"\\u0000" in body)
        if not trouble:
            return value
    raise ApiError(f"{name} {trouble}", param=param, code="invalid_json")


def _trouble(value: Any, may_hold_nul: bool) -> str:
    """What is wrong with a value that JSON allows, or nothing."""
    if _is_deep(value):
        return f"is nested deeper than {MAX_DEPTH} levels"
    if may_hold_nul and _holds_nul(value):
        return "holds the character NUL"
    return ""


def convert(value: Any, kind: type[Request], at: str = "") -> Request:
    """`value` as a request; `at` is its place in the body. Raises ApiError (400) naming the field."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise _from_validation(error, at) from None


def _from_validation(error: msgspec.ValidationError, at: str = "") -> ApiError:
    sentence, _, path = str(error).partition(" - at ")
    path = path.strip("`").removeprefix("key in `").lstrip("$").lstrip(".")
    if "missing required field" in sentence:
        name = sentence.rpartition(" ")[2].strip("`")
        missing = ".".join(part for part in (at, path, name) if part)
        return ApiError(f"{missing} is required", param=missing, code="missing_parameter")
    param = ".".join(part for part in (at, path) if part)
    sentence = sentence.replace("`", "")
    return ApiError(f"{param}: {sentence}" if param else sentence, param=param or None)


@cache
def _known(kind: type[msgspec.Struct]) -> frozenset[str]:
    return frozenset(field.encode_name for field in msgspec.structs.fields(kind))


def _refuse_typos(value: dict[str, Any], kind: type[msgspec.Struct]) -> None:
    """Refuse an unknown field that is nearly a known one; any other is another server's extension, and ignored.

    A `max_token` that is dropped in silence would do something else than was asked.
    """
    known = _known(kind)
    unknown = [name for name in value if name not in known]
    for name in unknown[:32]:
        near = difflib.get_close_matches(name[:64], known, n=1, cutoff=0.88)
        if near and near[0] not in value:
            message = f"unknown field {name[:64]}; did you mean {near[0]}?"
            raise ApiError(message, param=name[:64], code="unknown_parameter")


def _is_deep(value: Any) -> bool:
    """The JSON reader's own bound is the interpreter's stack; what walks the value later has less of it."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(MAX_DEPTH):
        level = [inner for outer in level for inner in _children(outer)]
        if not level:
            return False
    return True


def _children(value: dict[str, Any] | list[Any]) -> Iterator[Any]:
    inner = value.values() if isinstance(value, dict) else value
    return (item for item in inner if isinstance(item, dict | list))


def _holds_nul(value: Any) -> bool:
    level = [value]
    while level:
        if any(isinstance(item, str) and "\0" in item for item in level):
            return True
        level = [inner for outer in level for inner in _items(outer)]
    return False


def _items(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value
        yield from value.values()
    elif isinstance(value, list):
        yield from value
