"""Hypothesis draws the same examples at each `make test`; `make test-all` looks for new ones."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# A worker for each core, and one thread of torch for each worker and what it starts: with more, every product waits for
# a thread that has no core at the moment (an oracle of transformers took 99 s instead of 4, and the test its limit).
os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("new", deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder for sockets, wherever temporary files lie: the path of one has 107 bytes at most."""
    with tempfile.TemporaryDirectory(prefix="branchwork-", dir="/tmp") as folder:
        yield Path(folder)
