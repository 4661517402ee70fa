"""Typed holes: from what an author asks for (a type, a pattern, a schema) to a constraint and a decoder."""

import json
import re
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from functools import lru_cache
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import msgspec

from branchwork.lang.ir import Hole
from branchwork.lang.partial import partial_value
from branchwork.runtime.wire import messages as wire
from branchwork.runtime.wire.errors import ConstraintError, ProgramError

# SGLang's, because its programs know them. A number may be followed by blanks, at which it is cut: so the model
# can end it with what it would write next, where "end of text" is not likely.
REGEX_INT = r"[-+]?[0-9]+[ \n]*"
REGEX_FLOAT = r"[-+]?[0-9]*\.?[0-9]+[ \n]*"
REGEX_BOOL = r"(True|False)"
# A JSON string: any character but controls, with JSON's own escapes.
REGEX_STR = r'"([^"\\\x00-\x1f]|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})*"'

_AFTER_NUMBER = (" ", "\n")

_DTYPES: dict[str, Hole] = {
    "int": Hole(wire.Regex(REGEX_INT), stop=_AFTER_NUMBER),
    "float": Hole(wire.Regex(REGEX_FLOAT), stop=_AFTER_NUMBER),
    "bool": Hole(wire.Regex(REGEX_BOOL)),
    "str": Hole(wire.Regex(REGEX_STR)),
}

_DATE = r"[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
_TIME = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
_UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"


def _bare(type_: Any, pattern: str, stop: tuple[str, ...] = ()) -> Hole:
    return Hole(
        wire.Regex(pattern),
        lambda text: msgspec.convert(text.strip(), type_, strict=False),
        stop=stop,
    )


@lru_cache(maxsize=1)
def _bare_holes() -> dict[Any, Hole]:
    """Types whose values are written without the quotes of JSON when they stand alone."""
    # Together 12 ms to import; a program that asks for such a value has imported them itself.
    from datetime import date, datetime  # noqa: PLC0415
    from decimal import Decimal  # noqa: PLC0415
    from uuid import UUID  # noqa: PLC0415

    return {
        str: Hole(),
        int: _bare(int, r"-?(0|[1-9][0-9]*)[ \n]*", _AFTER_NUMBER),
        float: _bare(float, r"-?(0|[1-9][0-9]*)(\.[0-9]+)?[ \n]*", _AFTER_NUMBER),
        Decimal: _bare(Decimal, r"-?(0|[1-9][0-9]*)(\.[0-9]+)?[ \n]*", _AFTER_NUMBER),
        bool: Hole(wire.Choices(("true", "false")), lambda text: text == "true"),
        date: _bare(date, _DATE),
        datetime: _bare(datetime, f"{_DATE}T{_TIME}(Z|[+-]{_TIME[:-12]})?"),
        UUID: _bare(UUID, _UUID),
    }


def of_dtype(dtype: Any) -> Hole:
    """The form of SGLang's `dtype`: int, float, bool or str, or its name. The slot's value stays its text."""
    name = dtype if isinstance(dtype, str) else getattr(dtype, "__name__", repr(dtype))
    if name not in _DTYPES:
        raise ProgramError(
            f"dtype {name} is none of {', '.join(_DTYPES)}; for other types write type={name}"
        )
    return _DTYPES[name]


# Properties of Unicode: the runtime's dialect has them, Python's own does not.
_NOT_PYTHONS = re.compile(r"\\[pP]\{")


def of_regex(pattern: str) -> Hole:
    """The form of a pattern. Raises ConstraintError, with the position, for what is no pattern at all."""
    if not isinstance(pattern, str):
        raise ConstraintError(f"regex must be a string, not {type(pattern).__name__}", "regex")
    try:
        re.compile(pattern)
    except re.error as error:
        if _NOT_PYTHONS.search(pattern):
            return Hole(wire.Regex(pattern))  # the runtime reads it, and says what is wrong
        message = f'gen(regex="{pattern}") - {error.msg} at position {error.pos}'
        raise ConstraintError(message, str(error.pos)) from None
    return Hole(wire.Regex(pattern))


def of_grammar(text: str) -> Hole:
    """The form of a grammar. Raises ConstraintError for what is no text."""
    if not isinstance(text, str):
        raise ConstraintError(f"ebnf must be a string, not {type(text).__name__}", "ebnf")
    return Hole(wire.Ebnf(text))


def of_constraint(constraint: wire.Constraint) -> Hole:
    """The form of a constraint of the wire. Raises ConstraintError for what is none."""
    if not isinstance(constraint, wire.Constraint):
        message = (
            f"constraint must be one of runtime.wire.messages, not {type(constraint).__name__}"
        )
        raise ConstraintError(message, "constraint")
    return Hole(constraint)


class SchemaForm(NamedTuple):
    """How the JSON of a schema is written, and whether all of the schema must be enforced."""

    strict: bool = True
    whitespace: Literal["fixed", "any"] = "fixed"
    order: Literal["declared", "any"] = "declared"


def of_schema(schema: str | Mapping[str, Any], form: SchemaForm) -> Hole:
    """The form of a JSON schema, as text or as a mapping. The slot's value stays its text."""
    for name, word in (("whitespace", form.whitespace), ("order", form.order)):
        allowed = get_args(SchemaForm.__annotations__[name])
        if word not in allowed:
            raise ConstraintError(f"{name} must be {' or '.join(allowed)}, not {word!r}", name)
    try:
        text = schema if isinstance(schema, str) else json.dumps(schema)
        json.loads(text)
    except (TypeError, ValueError) as error:
        raise ConstraintError(f"json_schema is no JSON: {error}", "json_schema") from None
    mode: Literal["strict", "best_effort"] = "strict" if form.strict else "best_effort"
    return Hole(wire.JsonSchema(text, mode, form.whitespace, form.order))


def of_type(type_: Any) -> Hole:
    """The form of a Python type; the slot's value is an object of it.

    Strings, numbers, dates, UUIDs, Enums and Literals are written bare; everything else as JSON.
    Raises ProgramError where no constraint can be derived.
    """
    try:
        return _of_type(type_)
    except TypeError as error:
        if "unhashable" not in str(error):
            raise
        return _derive(type_)


def _derive(type_: Any) -> Hole:
    if get_origin(type_) is None and type_ in _bare_holes():
        return _bare_holes()[type_]
    words = _words(type_)
    if words is not None:
        return Hole(wire.Choices(tuple(words)), words.__getitem__)
    schema, decode = _with_pydantic(type_) if _needs_pydantic(type_) else _with_msgspec(type_)
    text = json.dumps(_closed(schema))
    return Hole(wire.JsonSchema(text), decode, lambda partial: partial_value(partial, type_))


_of_type = lru_cache(maxsize=1024)(_derive)


def _words(type_: Any) -> dict[str, Any] | None:
    """The texts of an Enum or a Literal and what each stands for; None for other types."""
    if isinstance(type_, type) and issubclass(type_, Enum):
        return {str(member.value): member for member in type_}
    if get_origin(type_) is Literal:
        return {str(value): value for value in get_args(type_)}
    return None


def _with_msgspec(type_: Any) -> tuple[dict[str, Any], Callable[[str], Any]]:
    try:
        schema = msgspec.json.schema(type_)
        decoder = msgspec.json.Decoder(type_)
    except (TypeError, RuntimeError) as error:
        raise ProgramError(f"no constraint can be derived from {_name(type_)}: {error}") from None
    return schema, decoder.decode


def _with_pydantic(type_: Any) -> tuple[dict[str, Any], Callable[[str], Any]]:
    # Only a program that has imported pydantic itself comes here.
    from pydantic import TypeAdapter  # noqa: PLC0415
    from pydantic.errors import PydanticUserError  # noqa: PLC0415

    try:
        adapter = TypeAdapter(type_)
        return adapter.json_schema(), adapter.validate_json
    except PydanticUserError as error:
        reason = str(error).partition("\n")[0]
        raise ProgramError(f"no constraint can be derived from {_name(type_)}: {reason}") from None


def _needs_pydantic(type_: Any) -> bool:
    """Whether the type says anything that msgspec would overlook: a pydantic model, or a bound in its words."""
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and any(
        _is_pydantic(part, pydantic) for part in _parts(type_, set())
    )


def _is_pydantic(part: Any, pydantic: Any) -> bool:
    if isinstance(part, type):
        return issubclass(part, pydantic.BaseModel) or hasattr(part, "__pydantic_core_schema__")
    module = type(part).__module__.partition(".")[0]
    return module in ("pydantic", "annotated_types")


def _parts(type_: Any, seen: set[int]) -> Iterator[Any]:
    """The type, the types it is made of, and what Annotated says about them."""
    if id(type_) in seen:
        return
    seen.add(id(type_))
    yield type_
    if get_origin(type_) is Annotated:
        yield from type_.__metadata__
    for part in get_args(type_):
        yield from _parts(part, seen)
    if (
        isinstance(type_, type)
        and not isinstance(type_, types.GenericAlias)
        and type_.__module__ != "builtins"
    ):
        for part in _hints(type_).values():
            yield from _parts(part, seen)


def _hints(type_: type) -> dict[str, Any]:
    try:
        return get_type_hints(type_, include_extras=True)
    except (NameError, TypeError):
        return {}


def _closed(schema: Any) -> Any:
    """The schema without room for keys that the type does not name."""
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items()}
    if isinstance(closed.get("properties"), dict) and closed.get("type") == "object":
        closed.setdefault("additionalProperties", False)
    return closed


def _name(type_: Any) -> str:
    return getattr(type_, "__qualname__", None) or repr(type_)
