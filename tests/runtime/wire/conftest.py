from collections.abc import Iterator

import pytest
from tests.empty_runtime import launch_empty

from branchwork.runtime.wire.client import Client
from branchwork.runtime.wire.launcher import RunningRuntime


@pytest.fixture(scope="module")
def empty() -> Iterator[RunningRuntime]:
    """A runtime that answers at once."""
    with launch_empty() as runtime:
        yield runtime


@pytest.fixture
def client(empty: RunningRuntime) -> Iterator[Client]:
    joined = empty.connect()
    yield joined
    joined.close()
