"""Numba where it is installed, plain Python where it is not: the same functions, faster or slower.

Machine code is kept on disk between runs. Numba asks only whether a function's own file has changed, but the code
of what it calls is compiled into it; so all files of the machine are stamped as one.
"""

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np

Function = TypeVar("Function", bound=Callable[..., Any])

int64: Callable[[Any], int] = cast(Any, np.int64)
"""Numba takes it for the type, mypy for a conversion: words of the program are int32, the machine counts in int64."""


@functools.cache
def _stamp() -> str:
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        if b"@compiled" in (source := file.read_bytes()) or file.name == "program.py":
            digest.update(source)
    return digest.hexdigest()


try:
    import numba

    def compiled(function: Function) -> Function:
        """Compile to machine code on first use, cached on disk; runs without the interpreter's lock."""
        dispatcher = numba.njit(cache=True, nogil=True)(function)
        index = getattr(getattr(dispatcher, "_cache", None), "_cache_file", None)
        if index is not None:
            index._source_stamp = (index._source_stamp, _stamp())
        return cast(Function, dispatcher)

except ImportError:

    def compiled(function: Function) -> Function:
        """As it is."""
        return function
