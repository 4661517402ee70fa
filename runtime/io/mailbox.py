"""The queue to the engine thread, from the io thread and the store."""

from collections.abc import Sequence
from queue import Empty, SimpleQueue

from branchwork.runtime.inbox import Arrival


class Mailbox:
    """What comes to the engine; the `Inbox` of its loop. Any thread may put."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Sequence[Arrival]] = SimpleQueue()

    def put(self, operations: Sequence[Arrival]) -> None:
        """Add operations or reports; those of one call stay together."""
        self._queue.put(operations)

    def drain(self, block_s: float) -> Sequence[Arrival]:
        """All operations that wait, in order; with none, wait up to `block_s` seconds for one."""
        operations: list[Arrival] = []
        try:
            operations += self._queue.get(block=block_s > 0, timeout=block_s or None)
            while True:
                operations += self._queue.get_nowait()
        except Empty:
            return operations
