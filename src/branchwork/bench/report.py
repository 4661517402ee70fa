"""What a bench found: rows of figures, printed as a table and kept as JSON."""

import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Line:
    """Points over something that goes on."""

    x: str
    y: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Target:
    """A figure that is to be reached: at least `least`, or at most `most`."""

    name: str
    measured: float
    least: float | None = None
    most: float | None = None

    @property
    def met(self) -> bool:
        """Whether it is."""
        return (self.least is None or self.measured >= self.least) and (
            self.most is None or self.measured <= self.most
        )

    def text(self) -> str:
        """One line."""
        bound = f"at least {self.least:g}" if self.least is not None else f"at most {self.most:g}"
        return f"target: {self.name}: {self.measured:.3g}, to reach {bound}: {'met' if self.met else 'MISSED'}"


@dataclass(slots=True)
class Report:
    """A title, the meaning of each column, and rows of values. `notes` are sentences below the table.

    `panels` are the columns to draw, those of one unit together; none: each column of figures. `line` is drawn
    instead, where there is one. With `live`, each row is printed and all so far are in that file as soon as it is
    known: what is cut off keeps what was measured.
    """

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    panels: tuple[tuple[str, ...], ...] = ()
    line: "Line | None" = None
    targets: list[Target] = field(default_factory=list)
    live: Path | None = None

    def add(self, *row: Any) -> None:
        """One more row, as many values as columns."""
        assert len(row) == len(self.columns), f"{len(row)} values for {len(self.columns)} columns"
        self.rows.append(row)
        self._show(" | ".join(map(show, row)))

    def check(self, target: Target) -> None:
        """One more figure that was to be reached."""
        self.targets.append(target)
        self._show(target.text())

    def _show(self, line: str) -> None:
        if self.live is not None:
            print(line, flush=True)
            self.save(self.live)

    def text(self) -> str:
        """The table, aligned for a terminal (and readable as Markdown)."""
        cells = [self.columns, *(tuple(show(value) for value in row) for row in self.rows)]
        widths = [max(len(row[i]) for row in cells) for i in range(len(self.columns))]
        lines = [
            "| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |"
            for row in cells
        ]
        lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
        return "\n".join(
            [
                f"## {self.title}", "", *lines, *([""] if self.notes else []), *self.notes,
                *(target.text() for target in self.targets),
            ]
        )  # fmt: skip

    def save(self, path: Path) -> None:
        """Write the figures as JSON."""
        rows = [dict(zip(self.columns, row, strict=True)) for row in self.rows]
        body = {"title": self.title, "when": time.strftime("%Y-%m-%d"), "rows": rows}
        targets = [asdict(target) | {"met": target.met} for target in self.targets]
        body |= {"notes": self.notes} | ({"targets": targets} if targets else {})
        path.write_text(json.dumps(body, indent=1) + "\n")


def show(value: Any) -> str:
    """A figure with three significant digits, anything else as it is."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def median_s(work: Callable[[], object], repeat: int = 5) -> float:
    """Median seconds of `repeat` runs of `work`."""
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 1) of the values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
