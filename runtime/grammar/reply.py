"""What the compiler's child answers."""

import msgspec


class Reply(msgspec.Struct, frozen=True, array_like=True):
    """One of: the result (a program or a table, serialised); why it is refused, and where; how the child failed.

    `is_last`: the child ends now; the next constraint is for a fresh one.
    """

    result: bytes = b""
    refusal: str = ""
    param: str | None = None
    failure: str = ""
    is_last: bool = False
