"""Errors in the author's words: what they wrote, what is wrong with it, and the line where they wrote it."""

import json
import os
from typing import Any

from branchwork.lang.ir import Gen, Select
from branchwork.lang.program import Program
from branchwork.lang.slot import Slot
from branchwork.runtime.wire import messages as wire
from branchwork.runtime.wire.errors import Aborted, BranchworkError, ConstraintError, RequestError

_MAX_SHOWN = 60


def failure(program: Program, slot: Slot, error: BranchworkError) -> BaseException:
    """What to raise where `slot` is read; the program's end need not tell of it again."""
    program.reported.append(error)
    if isinstance(error, Aborted) and program.error is not None:
        return program.error  # the slot ended because the program did
    return located(slot, error)


def located(slot: Slot, error: BranchworkError) -> BranchworkError:
    """`error` again, saying which slot it ended and where that was written."""
    message = f"{described(slot.expr)} - {error}{_line(slot)}"
    said: BranchworkError
    if isinstance(error, RequestError):
        said = type(error)(message, error.param)
        said.__dict__.update(error.__dict__)
    else:
        said = type(error)(message)
    said.__cause__ = error.__cause__
    return said


def undecodable(slot: Slot, error: Exception) -> BranchworkError:
    """The error for a text that is complete but is no value of the slot's type."""
    cut = slot.result is not None and slot.result.reason == "length"
    hint = "; it was cut by max_tokens" if cut else ""
    return ConstraintError(
        f"{described(slot.expr)} - {_short(slot.text)} cannot be read as its type: {error}{hint}{_line(slot)}"
    )


def described(expr: Gen | Select) -> str:
    """The expression as it may have been written, with what matters for an error."""
    if isinstance(expr, Select):
        return f"select({_arguments(expr.name, choices=list(expr.choices))})"
    constraint = expr.hole.constraint
    options: dict[str, Any] = dict(expr.options)
    if isinstance(constraint, wire.Regex):
        options["regex"] = constraint.pattern
    elif isinstance(constraint, wire.JsonSchema):
        options["json_schema"] = constraint.schema
    return f"gen({_arguments(expr.name, **options)})"


def _arguments(name: str | None, **options: Any) -> str:
    shown = [] if name is None else [json.dumps(name, ensure_ascii=False)]
    return ", ".join([*shown, *(f"{key}={_short(value)}" for key, value in options.items())])


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 1]}…"


def _line(slot: Slot) -> str:
    if slot.where is None:
        return ""
    code, line = slot.where
    return f"\n  in {os.path.basename(code.co_filename)}:{line}, in function {code.co_name}"
