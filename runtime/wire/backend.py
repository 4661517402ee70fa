"""What a program runs against: something that takes instructions and answers with events.

The client of a real runtime is one (`runtime.wire.client`); a remote API and the scripted backend of
`branchwork.testing` are others. A program cannot tell them apart.
"""

from collections.abc import Callable
from collections.abc import Sequence as Seq
from typing import Protocol

from branchwork.runtime.wire.errors import BranchworkError
from branchwork.runtime.wire.messages import BranchId, Event, Instruction, Welcome

Listener = Callable[[Event | BranchworkError], None]
"""Called for each event of a branch, in order, on whichever thread reads the socket; it must not block.

A `BranchworkError` means that the backend itself is gone: nothing more will follow on any branch.
"""


class Backend(Protocol):
    """Instructions in, events out. Every method but `wait` returns at once and may be called from any thread."""

    @property
    def welcome(self) -> Welcome:
        """Who answers, and within which limits."""
        ...

    def new_branch(self, listener: Listener) -> BranchId:
        """A fresh branch id whose events go to `listener` until its `Closed`."""
        ...

    def send(self, instructions: Seq[Instruction]) -> None:
        """Queue instructions; those of one call travel as one frame.

        Raises TransportError when the backend is gone.
        """
        ...

    def wait(self, ready: Callable[[], bool], timeout_s: float | None = None) -> bool:
        """Block this thread, while events are delivered, until `ready()` or the time is over; returns `ready()`.

        `ready` is quick and pure: any thread may call it. Raises TransportError when the backend is gone and `ready()`
        is still false.
        """
        ...

    def deliver_in_background(self) -> None:
        """From here on events are delivered without anyone waiting (asyncio programs and streams need it)."""
        ...

    def request(self, what: str, body: str = "{}", timeout_s: float | None = 60.0) -> str:
        """Ask for something beside the branches ("stats", "flush_cache", …) and wait for the answer's body."""
        ...

    def close(self) -> None:
        """Leave: open branches are aborted."""
        ...
