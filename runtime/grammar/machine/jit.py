"""Numba where it is installed, plain Python where it is not: the same functions, faster or slower."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np

Function = TypeVar("Function", bound=Callable[..., Any])

int64: Callable[[Any], int] = cast(Any, np.int64)
"""Numba takes it for the type, mypy for a conversion: words of the program are int32, the machine counts in int64."""

try:
    from branchwork.kernels.cpu.cached import borrowing_entry_point as _borrowing
    from branchwork.kernels.cpu.cached import entry_point as _making
except ImportError:

    def _making(function: Function) -> Function:
        return function

    _borrowing = _making


def compiled(function: Function) -> Function:
    """The function, as machine code where there is a compiler. It may make no arrays: it works in those it is given."""
    return _borrowing(function)


def makes_arrays(function: Function) -> Function:
    """As `compiled`, for one that makes arrays. They must not outlive it unless it is called from Python."""
    return _making(function)
