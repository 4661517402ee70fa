"""How an expression survives an f-string.

`f"Answer: {gen('x')}"` asks the expression for a string before the language sees it. It gets a marker that
nobody else can write (it carries this process's secret), and the marker becomes the expression again when the
string is appended.
"""

import os
import re
from collections import OrderedDict
from threading import Lock

from branchwork.runtime.wire.errors import ProgramError

# Private-use characters: a string of ordinary text is told apart by one scan in C.
_BEGIN, _END = "\uf8f0", "\uf8f1"
_SECRET = os.urandom(8).hex()
_MARKER = re.compile(f"{_BEGIN}{_SECRET}:([0-9]+){_END}")
_MAX_KEPT = 65_536

_kept: OrderedDict[int, object] = OrderedDict()
_lock = Lock()
_count = 0


def mark(value: object) -> str:
    """A marker that stands for `value`; the youngest 65 536 are remembered."""
    global _count
    with _lock:
        _count += 1
        _kept[_count] = value
        if len(_kept) > _MAX_KEPT:
            _kept.popitem(last=False)
        return f"{_BEGIN}{_SECRET}:{_count}{_END}"


def split(text: str) -> list[object] | None:
    """The strings and marked values that `text` is made of, in order; None when it holds no marker.

    Raises ProgramError where a marker's value is no longer remembered.
    """
    if _BEGIN not in text or _SECRET not in text:
        return None
    parts: list[object] = []
    for i, part in enumerate(_MARKER.split(text)):
        if i % 2 == 0:
            if part:
                parts.append(part)
            continue
        try:
            parts.append(_kept[int(part)])
        except KeyError:
            raise ProgramError(
                "an f-string with a gen in it was kept too long; build it anew"
            ) from None
    return parts
