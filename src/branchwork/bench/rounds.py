"""Rounds in which all that is compared has its turn, so that all meet the same machine."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

Form = TypeVar("Form")
Once = TypeVar("Once")


def alternate(
    forms: Mapping[str, Form], run_once: Callable[[Form, int], Once], repeat: int
) -> dict[str, list[Once]]:
    """What a run of each form gives in `repeat` rounds, after round 0, which warms up and does not count."""
    found: dict[str, list[Once]] = {name: [] for name in forms}
    for round_ in range(repeat + 1):
        for name, form in forms.items():
            once = run_once(form, round_)
            if round_:
                found[name].append(once)
    return found


def medians(runs: Sequence[tuple[float, ...]]) -> tuple[float, ...]:
    """Of each figure by itself."""
    return tuple(statistics.median(values) for values in zip(*runs, strict=True))
