"""A process with so many open files that new ones have numbers that `select` cannot count to."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def many_files(count: int = 1100) -> Iterator[None]:
    """Hold this many files open."""
    limits = soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < 2 * count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (2 * count, hard))
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(count)]
    try:
        yield
    finally:
        for fd in opened:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
