"""Messages of a chat, as expressions: `s += user("…")`."""

from branchwork.lang.ir import Expr, RoleMark, Seq, expression


def system(expr: Expr | str | None = None) -> Seq:
    """A system message that holds `expr`."""
    return role("system", expr)


def user(expr: Expr | str | None = None) -> Seq:
    """A user's message that holds `expr`."""
    return role("user", expr)


def assistant(expr: Expr | str | None = None) -> Seq:
    """A message of the model that holds `expr`, such as `assistant(gen("answer"))`."""
    return role("assistant", expr)


def role(name: str, expr: Expr | str | None = None) -> Seq:
    """A message of any role that the model's chat template knows."""
    begin, end = RoleMark(name, "begin"), RoleMark(name, "end")
    return begin + end if expr is None else begin + expression(expr) + end


def system_begin() -> RoleMark:
    """Where a system message begins."""
    return RoleMark("system", "begin")


def system_end() -> RoleMark:
    """Where a system message ends."""
    return RoleMark("system", "end")


def user_begin() -> RoleMark:
    """Where a user's message begins."""
    return RoleMark("user", "begin")


def user_end() -> RoleMark:
    """Where a user's message ends."""
    return RoleMark("user", "end")


def assistant_begin() -> RoleMark:
    """Where a message of the model begins."""
    return RoleMark("assistant", "begin")


def assistant_end() -> RoleMark:
    """Where a message of the model ends."""
    return RoleMark("assistant", "end")
