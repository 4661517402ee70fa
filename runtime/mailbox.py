"""The two queues between the io thread and the engine thread."""

import os
from collections import deque
from collections.abc import Sequence
from queue import Empty, SimpleQueue

from branchwork.runtime.inbox import Operation
from branchwork.runtime.wire.messages import RuntimeMessage


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


class EventQueue:
    """Messages for clients; the engine's `Outbox`. Any thread may send; the io thread sleeps on `fileno`."""

    def __init__(self) -> None:
        self._messages: deque[tuple[bytes, RuntimeMessage]] = deque()
        self._is_signalled = False
        self._read_end, self._write_end = os.pipe()

    def fileno(self) -> int:
        """Readable while messages wait."""
        return self._read_end

    def send(self, events: Sequence[tuple[bytes, RuntimeMessage]]) -> None:
        """Hand over (client, message) pairs; never blocks."""
        self._messages.extend(events)
        self.signal()

    def signal(self) -> None:
        """Wake whoever sleeps on `fileno`."""
        # One byte is in the pipe at most, so the write cannot block.
        if not self._is_signalled:
            self._is_signalled = True
            os.write(self._write_end, b"\0")

    def take(self) -> list[tuple[bytes, RuntimeMessage]]:
        """All messages that wait, in order."""
        if self._is_signalled:
            os.read(self._read_end, 1)
            # Before the messages are taken: one that is added from here on signals anew.
            self._is_signalled = False
        messages = []
        while self._messages:
            messages.append(self._messages.popleft())
        return messages

    def close(self) -> None:
        """Nobody sends and nobody takes any more."""
        os.close(self._read_end)
        os.close(self._write_end)
