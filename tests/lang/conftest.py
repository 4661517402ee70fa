"""Programs in these tests run against a script unless they name another backend."""

from collections.abc import Callable, Iterator

import pytest

from branchwork import set_default_backend
from branchwork.lang.testing.scripted import Script, Scripted


@pytest.fixture
def script() -> Iterator[Callable[..., Scripted]]:
    """Make a scripted backend and the default: `script(answer="Paris")`."""
    made: list[Scripted] = []

    def make(*, delay_s: float = 0.0, default: Script = "ok", **answers: Script) -> Scripted:
        backend = Scripted(answers, delay_s=delay_s, default=default)
        set_default_backend(backend)
        made.append(backend)
        return backend

    yield make
    set_default_backend(None)
    for backend in made:
        backend.close()
