"""A runtime without a model: the real scheduler, cache and grammars, and an answer at once."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from branchwork.runtime.wire.backend import Backend


@contextmanager
def mock_runtime(**options: Any) -> Iterator[Backend]:
    """A runtime process whose model only pretends; constraints are held, prefixes are shared, text is nonsense.

    `options` are those of `Runtime`. The same tokens always give the same text.

    >>> with mock_runtime() as backend:
    ...     state = capital.run(country="Italy", backend=backend, max_tokens=4)
    >>> state.get_meta_info("city")["sampled_tokens"]
    4
    """
    # pyzmq is 25 ms to import; only who starts a process needs it.
    from branchwork.runtime.wire.launcher import launch  # noqa: PLC0415

    process = launch(module="branchwork.runtime.mock_service", **options)
    client = process.connect()
    try:
        yield client
    finally:
        client.close()
        process.close()
