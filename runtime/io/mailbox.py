"""The queue from the io thread to the engine thread."""

from collections.abc import Sequence
from queue import Empty, SimpleQueue

from branchwork.runtime.inbox import Operation


class Mailbox:
    """Operations for the engine; the `Inbox` of its loop. Any thread may put."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Sequence[Operation]] = SimpleQueue()

    def put(self, operations: Sequence[Operation]) -> None:
        """Add operations; those of one call stay together."""
        self._queue.put(operations)

    def drain(self, block_s: float) -> Sequence[Operation]:
        """All operations that wait, in order; with none, wait up to `block_s` seconds for one."""
        operations: list[Operation] = []
        try:
            operations += self._queue.get(block=block_s > 0, timeout=block_s or None)
            while True:
                operations += self._queue.get_nowait()
        except Empty:
            return operations
