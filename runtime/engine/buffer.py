"""A growing row of int32: the tokens of a branch, the slots of a request."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int32]


class IntBuffer:
    """Like a list of ints, whose parts can be seen as numpy arrays without a copy.

    A view shows the buffer as it is when it is taken; whoever keeps it past the next change copies it.
    `length` is for reading, where `len` would cost a call for every token. A copy shares the values until one of the
    two changes what both have: ten thousand forks of a long branch take the memory of one.
    """

    __slots__ = ("_data", "_num_shared", "length")

    def __init__(self, values: Iterable[int] | Ints = ()) -> None:
        data = values if isinstance(values, np.ndarray) else np.fromiter(values, np.int32)
        self.length = len(data)
        self._data: Ints = np.empty(max(16, self.length + self.length // 2), np.int32)
        self._data[: self.length] = data
        self._num_shared = 0  # so many leading places of `_data` are seen by others, too

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> int:
        if not -self.length <= index < self.length:
            raise IndexError(index)
        return int(self._data[index if index >= 0 else self.length + index])

    def append(self, value: int) -> None:
        """Add one value."""
        if self.length == len(self._data) or self.length < self._num_shared:
            self._grow(self.length + 1)
        self._data[self.length] = value
        self.length += 1

    def extend(self, values: "Iterable[int] | Ints") -> None:
        """Add several values."""
        new = values if isinstance(values, np.ndarray) else np.fromiter(values, np.int32)
        length = self.length + len(new)
        if length > len(self._data) or self.length < self._num_shared:
            self._grow(length)
        self._data[self.length : length] = new
        self.length = length

    def truncate(self, length: int) -> None:
        """Keep the first `length` values."""
        assert 0 <= length <= self.length, (length, self.length)
        self.length = length

    def view(self, start: int, stop: int) -> Ints:
        """Values [start, stop), not copied."""
        assert 0 <= start <= stop <= self.length, (start, stop, self.length)
        return self._data[start:stop]

    def ids(self, start: int, stop: int) -> tuple[int, ...]:
        """Values [start, stop) as Python ints."""
        if stop - start == 1 and 0 <= start < self.length:  # a decode step's: a view takes longer
            return (self._data.item(start),)
        return tuple(self.view(start, stop).tolist())

    def copy(self) -> "IntBuffer":
        """An independent buffer of the same values. O(1)."""
        copied = IntBuffer.__new__(IntBuffer)
        copied._data, copied.length = self._data, self.length
        # The original may go on behind what the copy sees; the copy may not write there at all.
        copied._num_shared = len(self._data)
        self._num_shared = max(self._num_shared, self.length)
        return copied

    def _grow(self, length: int) -> None:
        """Have room for so many values, and share them with nobody."""
        data = np.empty(max(16, length, 2 * self.length), np.int32)
        data[: self.length] = self._data[: self.length]
        self._data = data
        self._num_shared = 0


def common_len(left: Ints, right: Ints) -> int:
    """Length of the longest common prefix."""
    length = min(len(left), len(right))
    if length == 0:
        return 0
    differs = left[:length] != right[:length]
    first = int(differs.argmax())
    return first if differs[first] else length
