"""Numba where it is installed, plain Python where it is not: the same functions, faster or slower."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np

Function = TypeVar("Function", bound=Callable[..., Any])

int64: Callable[[Any], int] = cast(Any, np.int64)
"""Numba takes it for the type, mypy for a conversion: words of the program are int32, the machine counts in int64."""

try:
    from branchwork.kernels.cpu.cached import entry_point as _to_machine_code
except ImportError:

    def _to_machine_code(function: Function) -> Function:
        return function


def compiled(function: Function) -> Function:
    """The function, as machine code where there is a compiler."""
    return _to_machine_code(function)
