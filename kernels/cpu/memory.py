"""Arrays that begin where a line of the caches does: numpy's large ones begin 16 bytes into a page, so that every
vector and every row of a tile, of 64 bytes each, would lie in two lines.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

_LINE = 64


def zeros(shape: int | Sequence[int], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """As `np.zeros`; the address is a multiple of 64."""
    kind = np.dtype(dtype)
    size = int(np.prod(shape)) * kind.itemsize
    memory = np.zeros(size + _LINE, np.uint8)
    first = -memory.ctypes.data % _LINE
    return memory[first : first + size].view(kind).reshape(shape)


def stacked(arrays: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """As `np.stack`; the address is a multiple of 64."""
    out = zeros((len(arrays), *arrays[0].shape), arrays[0].dtype)
    return np.stack(arrays, out=out)
