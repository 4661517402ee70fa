"""What a program says, as values: texts, slots to fill, role marks, and their concatenation.

Expressions are immutable; adding two gives a third. They know nothing of backends: `branchwork.lang.branch`
turns them into the instructions of `branchwork.runtime.wire.messages`.
"""

from collections.abc import Callable
from typing import Any, Literal

import msgspec

from branchwork.lang.placeholder import mark, split
from branchwork.runtime.wire.backend import Backend
from branchwork.runtime.wire.errors import ProgramError
from branchwork.runtime.wire.messages import Constraint

Role = str


class Expr(msgspec.Struct, frozen=True, eq=False):
    """Something that can be appended to a state; `+` joins it with strings and other expressions.

    >>> expr = "Name:" + bw.gen("name")
    >>> isinstance(expr, bw.Expr), len(expr.expr_list)
    (True, 2)
    """

    def __add__(self, other: "Expr | str") -> "Seq":
        return Seq((*_parts(self), *_parts(expression(other))))

    def __radd__(self, other: str) -> "Seq":
        return Seq((*_parts(expression(other)), *_parts(self)))

    def __str__(self) -> str:
        return mark(self)

    def __format__(self, spec: str) -> str:
        if spec:
            raise ProgramError(
                f"a format like {spec!r} cannot be applied to what is generated later"
            )
        return mark(self)


class Const(Expr, frozen=True, eq=False):
    """Text as the author wrote it; `special` lets special tokens written in it be read as such."""

    text: str
    special: bool = False


class Hole(msgspec.Struct, frozen=True, eq=False):
    """How the text of a slot is held to a form and becomes a value.

    `decode` gets the whole text, `partial` a text that is still growing (None: no value can be told yet).
    """

    constraint: Constraint | None = None
    decode: Callable[[str], Any] | None = None
    partial: Callable[[str], Any] | None = None
    stop: tuple[str, ...] = ()


class Gen(Expr, frozen=True, eq=False):
    """A slot that the model fills. `options` hold what differs from the run's own, by canonical name."""

    name: str | None = None
    options: dict[str, Any] = msgspec.field(default_factory=dict)
    hole: Hole = Hole()
    on: Backend | None = None


class Select(Expr, frozen=True, eq=False):
    """A slot filled with the best of `choices`; `values` are what they stand for (the members of an Enum)."""

    name: str | None
    choices: tuple[str, ...]
    method: "str | Callable[..., Any]"
    values: tuple[Any, ...] = ()
    on: Backend | None = None


class RoleMark(Expr, frozen=True, eq=False):
    """Where a message of `role` begins or ends."""

    role: Role
    edge: Literal["begin", "end"]


class Media(Expr, frozen=True, eq=False):
    """An image or a video, by path; `frames` is None for an image."""

    path: str
    frames: int | None = None


class Reasoning(Expr, frozen=True, eq=False):
    """Stands after `inner`, whose slots are split into what was thought and what was said."""

    model_type: str
    inner: Expr

    @property
    def name(self) -> str | None:
        """The variable that holds what was thought, None when the slot has no name."""
        names = [part.name for part in walk(self.inner) if isinstance(part, Gen | Select)]
        return None if not names or names[0] is None else self.process_name_for_reasoning(names[0])

    @staticmethod
    def process_name_for_reasoning(name: str) -> str:
        """The variable that holds what was thought before slot `name` was said."""
        return f"{name}_reasoning_content"

    def __repr__(self) -> str:
        return f"SeparateReasoning(model_type={self.model_type}, name={self.name})"


class Echo(Expr, frozen=True, eq=False):
    """What a slot of another branch, or of this one, will have said (a `branchwork.lang.slot.Slot`)."""

    slot: Any


class Seq(Expr, frozen=True, eq=False):
    """Expressions one after another; never holds another Seq."""

    parts: tuple[Expr, ...]

    @property
    def expr_list(self) -> list[Expr]:
        """The expressions."""
        return list(self.parts)


def _parts(expr: Expr) -> tuple[Expr, ...]:
    return expr.parts if type(expr) is Seq else (expr,)


def expression(value: object) -> Expr:
    """`value` as an expression: a string becomes a Const, and expressions inside an f-string come back.

    Raises ProgramError for anything else.
    """
    if isinstance(value, str):
        # The characters themselves: str() of a member of a str Enum would give its name.
        text = value if type(value) is str else "".join((value,))
        found = split(text)
        if found is None:
            return Const(text)
        return Seq(tuple(part for item in found for part in _parts(expression(item))))
    if isinstance(value, Expr):
        return value
    raise ProgramError(_refusal(value))


def _refusal(value: object) -> str:
    if value is None:
        return "None cannot be appended; did a function forget to return its expression?"
    kind = type(value).__name__
    return (
        f"a value of type {kind} cannot be appended; give text or an expression, as str(...) does"
    )


def walk(expr: Expr) -> tuple[Expr, ...]:
    """The expressions of `expr` in order, with sequences opened."""
    return _parts(expr)
