"""Many programs at once: a list of calls in, their states out, in the order of the list."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

from branchwork.lang.hub import Hub
from branchwork.lang.run import Call, attempt, raise_error
from branchwork.lang.state import State

OnError = Literal["raise", "return"]

MAX_RUNNING = 1024
"""Programs of a batch that run at once, when nothing else is said: more would only wait in the runtime's queue."""


class Fresh:
    """A batch of which nothing is done yet; `branchwork.lang.checkpoint.Resumed` is one of which some may be."""

    def __init__(self, calls: Sequence[Call]) -> None:
        self.todo = list(calls)

    def save(self, place: int, state: State) -> None:
        """Nothing is kept."""

    def merged(self, states: Iterable[State]) -> Iterator[State]:
        """The states as they are."""
        return iter(states)


def run_batch(
    calls: Sequence[Call],
    num_running: int,
    on_error: OnError,
    progress_bar: bool,
    ended_well: Callable[[int, State], None],
) -> Iterator[State]:
    """The states of `calls`, in order. All bodies share this thread; at most `num_running` run at once.

    `ended_well` is told of each program that ends without error, by its place in `calls`.

    With `on_error="raise"` the first error ends all other programs and is raised.
    """
    hub = Hub()
    ended: dict[int, State] = {}
    waiting = iter(enumerate(calls))

    def run_next() -> None:
        for i, call in waiting:
            state = attempt(call, hub)
            ended[i] = state
            bar.update()
            if state.branch.program.error is None:
                ended_well(i, state)
            elif on_error == "raise":
                return

    bodies = [hub.spawn(run_next) for _ in range(min(num_running, len(calls)))]
    with progress(len(calls), progress_bar) as bar:
        try:
            for i in range(len(calls)):
                hub.run_until(partial(ended.__contains__, i))
                yield _judged(ended.pop(i), on_error)
        finally:
            hub.end(bodies)


def _judged(state: State, on_error: OnError) -> State:
    return raise_error(state) if on_error == "raise" else state


class NoBar:
    """A progress bar that shows nothing."""

    def update(self) -> None:
        """Nothing."""


@contextmanager
def progress(total: int, shown: bool) -> Iterator[Any]:
    """Something with `update()`, to be called once for each program that ends."""
    if not shown:
        yield NoBar()
        return
    # tqdm is 45 ms to import; only a progress bar needs it.
    from tqdm import tqdm  # noqa: PLC0415

    with tqdm(total=total) as bar:
        yield bar
