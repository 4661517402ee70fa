"""One run of a function: what its branches have in common, its deadline, and how it ends."""

import itertools
import time
from collections.abc import Callable
from threading import RLock
from typing import Protocol

from branchwork.lang.driver import Driver
from branchwork.lang.options import Defaults
from branchwork.lang.slot import Slot
from branchwork.runtime.wire.backend import Backend
from branchwork.runtime.wire.errors import BranchworkError

_numbers = itertools.count(1)


class Party(Protocol):
    """A branch of the program, as its end concerns it. Called under the program's lock."""

    def end(self) -> None:
        """Nothing more will be appended."""

    def abort(self) -> None:
        """Stop now, and free the memory."""

    def fail(self, error: BranchworkError) -> None:
        """A backend is gone."""


class Program:
    """One run. Everything that events change is changed under `lock`.

    `shared`: others than the body wait for this program too (a stream), so nobody delivers events for himself.
    `ended` turns True once, when body and slots have ended or the program was aborted.
    """

    __slots__ = (
        "_watchers",
        "backends",
        "deadline",
        "defaults",
        "driver",
        "ended",
        "error",
        "lock",
        "name",
        "number",
        "parties",
        "reported",
        "shared",
        "slots",
    )

    def __init__(
        self,
        name: str,
        backend: Backend,
        defaults: Defaults,
        driver: Driver,
        *,
        shared: bool = False,
        timeout_s: float | None = None,
    ) -> None:
        self.name = name
        self.backends = [backend]
        self.defaults = defaults
        self.driver = driver
        self.shared = shared
        self.deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self.lock = RLock()
        self.number = next(_numbers)
        self.parties: list[Party] = []
        self.slots: list[Slot] = []
        self.reported: list[BranchworkError] = []
        self.ended = False
        self.error: BaseException | None = None
        self._watchers: list[Callable[[], None]] = []
        if shared:
            backend.deliver_in_background()

    def share(self) -> None:
        """Others than the body wait too, from here on."""
        if not self.shared:
            self.shared = True
            for backend in self.backends:
                backend.deliver_in_background()

    def use(self, backend: Backend) -> None:
        """A further backend joins in: from here on no thread waits on one socket alone."""
        if backend not in self.backends:
            self.backends.append(backend)
            for each in self.backends:
                each.deliver_in_background()

    def seconds_left(self) -> float | None:
        """Until the deadline; at least a millisecond, None without a deadline."""
        return None if self.deadline is None else max(self.deadline - time.monotonic(), 1e-3)

    # ------------------------------------------------------------------ waiting

    def wait_for(self, slot: Slot) -> None:
        """Wait until `slot` and its samples have ended. Raises DeadlineExceeded."""
        for each in (slot, *slot.samples):
            if not each.done:
                self.driver.wait(self, each.is_done, each.when_done)

    def when_changed(self, watcher: Callable[[], None]) -> None:
        """Call `watcher` once at the next event, piece or end. Hold `lock`."""
        self._watchers.append(watcher)

    def changed(self) -> None:
        """Something has happened that a stream may show. Hold `lock`."""
        if self._watchers:
            watchers, self._watchers = self._watchers, []
            for watcher in watchers:
                watcher()

    # ------------------------------------------------------------------ the end

    def close(self) -> None:
        """The body has ended: each branch goes when its queue is done."""
        with self.lock:
            for party in self.parties:
                party.end()
            self.changed()

    def finish(self) -> None:
        """The body and all slots have ended."""
        with self.lock:
            self.ended = True
            self.changed()

    def abort(self, error: BaseException) -> None:
        """Stop now; `error` is why. The runtime frees what the program holds at once."""
        with self.lock:
            if self.ended:
                return
            self.error = error
            self.ended = True
            for party in self.parties:
                party.abort()
            self.changed()

    def fail(self, error: BranchworkError) -> None:
        """A backend is gone: no slot that is still open will be filled."""
        with self.lock:
            for party in self.parties:
                party.fail(error)
            self.changed()

    def first_unreported(self) -> Slot | None:
        """The first slot whose error the body has not been told."""
        for slot in self.slots:
            error = slot.failure
            if error is not None and not any(error is known for known in self.reported):
                return slot
        return None
