"""Several threads in one compiled function: how they share work, how they wait for each other, and for work.

They meet at barriers between the stages of a layer, 200 times in a step of a large model: that must cost less
than a microsecond, so they spin, and yield the core when it takes longer. Between two barriers they take pieces of
work from a common counter, so a thread that loses its core to another process for a while does less, and the
others more. Between steps they sleep in the kernel, outside of Python: waking them needs no interpreter lock.
"""

import sys
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import types

from branchwork.kernels.cpu.cached import borrowing_entry_point
from branchwork.kernels.cpu.vector import atomic_add, atomic_load, inlined, kernel

SUPPORTED = sys.platform == "linux"
"""Whether there is more than one thread here: unnamed POSIX semaphores are not everywhere."""

_SPINS = 2000
_SEMAPHORE_BYTES = 64
_COUNT, _GENERATION, _TAKEN = 0, 8, 16  # a line of memory apart

_sched_yield = types.ExternalFunction("sched_yield", types.int32())
_sem_init = types.ExternalFunction("sem_init", types.int32(types.int64, types.int32, types.uint32))
_sem_post = types.ExternalFunction("sem_post", types.int32(types.int64))
_sem_wait = types.ExternalFunction("sem_wait", types.int32(types.int64))


class Team(NamedTuple):
    """What the threads of a team share: a barrier, the counter of pieces taken, and a semaphore for each."""

    size: int
    barrier: npt.NDArray[np.int64]  # [24]
    semaphores: npt.NDArray[np.int64]  # [size, 8]


def make_team(size: int) -> Team:
    """A team of `size` threads; the first is whoever calls."""
    team = Team(size, np.zeros(24, np.int64), np.zeros((size, _SEMAPHORE_BYTES // 8), np.int64))
    _prepare(team)
    return team


@borrowing_entry_point
def _prepare(team: Any) -> None:
    """Make the semaphores."""
    for part in range(team.size):
        _sem_init(team.semaphores[part].ctypes.data, 0, 0)


@kernel
def wake(team: Any) -> None:
    """Let the others begin."""
    for part in range(1, team.size):
        _sem_post(team.semaphores[part].ctypes.data)


@kernel
def sleep(team: Any, part: Any) -> None:
    """Wait until woken; a signal's handler may interrupt the wait, and then it goes on."""
    while _sem_wait(team.semaphores[part].ctypes.data) != 0:
        pass


@inlined
def take(team: Any, count: Any) -> Any:
    """The next `count` pieces of work that nobody has taken since the last barrier: the number of the first."""
    return atomic_add(team.barrier[_TAKEN:].ctypes.data, count)


@kernel
def meet(team: Any) -> None:
    """Wait until all threads of the team are here; what each has written, all see. The counter begins anew."""
    taken = team.barrier[_TAKEN:].ctypes.data
    if team.size == 1:
        team.barrier[_TAKEN] = 0
        return
    count, generation = team.barrier[_COUNT:].ctypes.data, team.barrier[_GENERATION:].ctypes.data
    now = atomic_load(generation)
    if atomic_add(count, 1) == team.size - 1:
        atomic_add(taken, -atomic_load(taken))
        atomic_add(count, -team.size)
        atomic_add(generation, 1)
        return
    spins = 0
    while atomic_load(generation) == now:
        spins += 1
        if spins > _SPINS:
            _sched_yield()
