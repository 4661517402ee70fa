"""Many programs at once on an asyncio loop."""

import asyncio
from collections.abc import Callable, Sequence

from branchwork.lang.arun import attempt_async
from branchwork.lang.batch import OnError, progress
from branchwork.lang.run import Call, raise_error
from branchwork.lang.state import State


async def arun_batch(
    calls: Sequence[Call],
    num_running: int,
    on_error: OnError,
    progress_bar: bool,
    ended_well: Callable[[int, State], None],
) -> list[State]:
    """The states of `calls`, in order; at most `num_running` programs run at once.

    `ended_well` is told of each program that ends without error, by its place in `calls`.

    With `on_error="raise"` the first error ends all other programs and is raised.
    """
    states: list[State | None] = [None] * len(calls)
    waiting = iter(enumerate(calls))
    with progress(len(calls), progress_bar) as bar:

        async def run_next() -> None:
            for i, call in waiting:
                state = await attempt_async(call)
                if state.branch.program.error is None:
                    ended_well(i, state)
                states[i] = raise_error(state) if on_error == "raise" else state
                bar.update()

        tasks = [asyncio.create_task(run_next()) for _ in range(min(num_running, len(calls)))]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    return [state for state in states if state is not None]
