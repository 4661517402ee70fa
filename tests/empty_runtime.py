"""A runtime that answers at once, for tests of what stands around the engine."""

from typing import Any

from branchwork.runtime.wire.launcher import RunningRuntime, launch


def launch_empty(**options: Any) -> RunningRuntime:
    """Start it; options are those of `RuntimeConfig`."""
    return launch(module="branchwork.runtime.empty", **options)
