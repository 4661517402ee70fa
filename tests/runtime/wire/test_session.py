"""What a client knows of its connection, without a socket."""

import threading
from collections.abc import Iterator

from branchwork.runtime.wire.backend import Listener
from branchwork.runtime.wire.errors import BranchworkError, RuntimeDied, TransportError
from branchwork.runtime.wire.messages import Event
from branchwork.runtime.wire.session import Session

SECOND_S = 0.5


class Meeting:
    """A point that a thread passes with another one, or after a moment alone."""

    def __init__(self) -> None:
        self._both = threading.Barrier(2)

    def wait(self) -> None:
        try:
            self._both.wait(SECOND_S)
        except threading.BrokenBarrierError:
            return


class LateListeners(dict[int, Listener]):
    """Both threads have looked at them before one goes on."""

    meeting = Meeting()

    def values(self) -> Iterator[Listener]:  # type: ignore[override]
        found = list(super().values())
        self.meeting.wait()
        return iter(found)


class LateSession(Session):
    """Both threads have seen that it has not ended before one ends it."""

    meeting = Meeting()
    _error: BranchworkError | None = None

    @property  # type: ignore[override]
    def error(self) -> BranchworkError | None:
        return self._error

    @error.setter
    def error(self, error: BranchworkError | None) -> None:
        if error is not None:
            self.meeting.wait()
        self._error = error


def test_two_threads_that_end_a_session_at_once_tell_each_listener_once() -> None:
    """Who closes it, and the reader that finds the runtime dead."""
    session = LateSession()
    session._listeners = LateListeners()
    heard: list[Event | BranchworkError] = []
    session.add_branch(heard.append)
    threads = [
        threading.Thread(target=session.fail, args=(error,))
        for error in (TransportError("closed"), RuntimeDied("gone"))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert heard == [session.error]
