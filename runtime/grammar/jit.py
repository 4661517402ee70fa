"""Numba where it is installed, plain Python where it is not: the same functions, faster or slower."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np

Function = TypeVar("Function", bound=Callable[..., Any])

int64: Callable[[Any], int] = cast(Any, np.int64)
"""Numba takes it for the type, mypy for a conversion: words of the program are int32, the machine counts in int64."""

try:
    import numba

    def compiled(function: Function) -> Function:
        """Compile to machine code on first use, cached on disk; runs without the interpreter's lock."""
        return cast(Function, numba.njit(cache=True, nogil=True)(function))

except ImportError:

    def compiled(function: Function) -> Function:
        """As it is."""
        return function
