"""Where a device runner's tensors are, and how work gets there without the host waiting for it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Array = npt.NDArray[Any]

STEPS_IN_FLIGHT = 2
"""Steps that may have been launched and not yet looked at."""


class Device:
    """A GPU; or this processor, where all is done when it is called.

    On a GPU all work is put on one stream, so it is done in the order of the calls.
    """

    def __init__(self, where: torch.device) -> None:
        self.where = where
        self._is_gpu = where.type == "cuda"
        self._memory: Any = None  # what all captured graphs work in: never two at once

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """`work` as one launch: a captured graph. It is done some times for it, so it must be harmless now."""
        if not self._is_gpu:
            return work
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):  # compiles, and makes what libraries make on their first call
                work()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._memory):
            work()
        self._memory = self._memory or graph.pool()
        return graph.replay

    def mark(self) -> Callable[[], None]:
        """A point in the work so far; to call it is to wait until it is reached."""
        if not self._is_gpu:
            return lambda: None
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        return event.synchronize

    def pinned(self, *shape: int, dtype: torch.dtype) -> Tensor:
        """Memory of the host that the device can reach."""
        return torch.empty(shape, dtype=dtype, pin_memory=self._is_gpu)

    def fetch(self, tensor: Tensor) -> Tensor:
        """A copy for the host; what it holds is there from the next `mark` on."""
        return self.pinned(*tensor.shape, dtype=tensor.dtype).copy_(tensor, non_blocking=True)


class Uploads:
    """Copies of the host's arrays on the device, which the host does not wait for.

    They go through pinned memory, a part for each step in flight and one more: `turn` begins another step, and the part
    that it gets was last read by a step that has been looked at since.
    """

    def __init__(self, device: Device, num_bytes: int) -> None:
        self._where = device.where
        self._parts = [
            device.pinned(num_bytes, dtype=torch.uint8) for _ in range(STEPS_IN_FLIGHT + 1)
        ]
        self._number = 0
        self._used = 0

    def turn(self) -> None:
        """Another step begins."""
        self._number = (self._number + 1) % len(self._parts)
        self._used = 0

    def copy(self, array: Array) -> Tensor:
        """The array on the device. What is larger than all the room there is left is copied while the host waits."""
        source = torch.from_numpy(np.ascontiguousarray(array))
        part, first = self._parts[self._number], self._used
        last = first + source.nbytes
        if last > len(part):
            return source.to(self._where, copy=True)
        self._used = (last + 15) // 16 * 16
        held = part[first:last].view(source.dtype).view(source.shape)
        held.copy_(source)
        return held.to(self._where, non_blocking=True, copy=True)
