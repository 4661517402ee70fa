"""Arrays whose rows do not lie across the caches' lines."""

import numpy as np
import pytest

from branchwork.kernels.cpu.memory import stacked, zeros


@pytest.mark.parametrize("shape", [3, (5, 7), (1000, 1000)], ids=str)
def test_an_array_of_zeros_begins_with_a_line(shape: int | tuple[int, ...]) -> None:
    for kind in (np.uint16, np.float32):
        found = zeros(shape, kind)
        assert found.ctypes.data % 64 == 0
        assert np.array_equal(found, np.zeros(shape, kind))
        assert found.flags.c_contiguous


def test_stacked_arrays_begin_with_a_line() -> None:
    rows = [np.arange(3, dtype=np.uint16) + i for i in range(4)]
    found = stacked(rows)
    assert found.ctypes.data % 64 == 0
    assert np.array_equal(found, np.stack(rows))
