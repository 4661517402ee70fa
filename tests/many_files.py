"""A process with so many open files that new ones have numbers that `select` cannot count to."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def many_files(count: int = 1100) -> Iterator[None]:
    """Hold this many files open."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (max(limits[0], min(2 * count, limits[1])), limits[1])
    )
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(count)]
    try:
        yield
    finally:
        for fd in opened:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
