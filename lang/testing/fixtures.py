"""Fixtures for the tests of programs: `pytest_plugins = ["branchwork.lang.testing.fixtures"]`."""

from collections.abc import Callable, Iterator

import pytest

from branchwork.lang.default import global_config, set_default_backend
from branchwork.lang.testing.scripted import Script, Scripted


@pytest.fixture
def scripted() -> Iterator[Callable[..., Scripted]]:
    """Answer by name: `scripted(city="Paris", default="ok", delay_s=0.1)` is the default backend of the test."""
    before = global_config.default_backend
    made: list[Scripted] = []

    def make(*, default: Script = "ok", delay_s: float = 0.0, **answers: Script) -> Scripted:
        made.append(Scripted(answers, default=default, delay_s=delay_s))
        set_default_backend(made[-1])
        return made[-1]

    yield make
    set_default_backend(before)
    for backend in made:
        backend.close()
