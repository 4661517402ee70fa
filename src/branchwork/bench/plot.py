"""A report as a picture: a panel for each group of columns that share a unit, bars for rows."""

import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from branchwork.bench.report import Report, show
from branchwork.runtime.wire.errors import ConfigError

MAX_PANELS = 4

# Of Okabe and Ito's palette, which those who see colours otherwise can tell apart too.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
INK = "#333333"


def require() -> None:
    """Raises ConfigError, with what to install, where pictures cannot be drawn."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError("--plot needs matplotlib: pip install 'branchwork[bench]'")


def draw(report: Report, path: Path) -> None:
    """Write the report as a PNG; rows without a figure in a panel are left out of it. Raises ConfigError."""
    require()
    # Half a second to import, and only here of use. Agg: no display is needed.
    matplotlib: Any = importlib.import_module("matplotlib")
    matplotlib.use("Agg")
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    if report.line is not None:
        figure, axis = pyplot.subplots(figsize=(8, 4), layout="constrained")
        axis.plot(*zip(*report.line.points, strict=True), color=COLOURS[0], marker=".")
        axis.set_xlabel(report.line.x, fontsize=9, color=INK)
        axis.set_ylabel(report.line.y, fontsize=9, color=INK)
        axis.set_ylim(0, 1.1 * max(1.0, *(y for _, y in report.line.points)))
        _finish(pyplot, figure, (axis,), report, path)
        return
    panels = report.panels or tuple((name,) for name in _numeric(report))
    panels = panels[:MAX_PANELS]
    if not panels:
        raise ConfigError("--plot: this report has no figures to draw")
    height = 1.1 + sum(_height(report, columns) for columns in panels)
    figure, axes = pyplot.subplots(
        len(panels), 1, figsize=(8, height), squeeze=False, layout="constrained",
        height_ratios=[_height(report, columns) for columns in panels],
    )  # fmt: skip
    for axis, columns in zip(axes[:, 0], panels, strict=True):
        _draw_panel(axis, report, columns)
    _finish(pyplot, figure, axes[:, 0], report, path)


def _finish(pyplot: Any, figure: Any, axes: Sequence[Any], report: Report, path: Path) -> None:
    figure.suptitle(report.title, fontsize=11, color=INK)
    for axis in axes:
        axis.tick_params(axis="x", labelsize=8, colors=INK)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def _draw_panel(axis: Any, report: Report, columns: tuple[str, ...]) -> None:
    rows = [row for row in report.rows if any(map(_is_figure, _values(report, row, columns)))]
    thickness = 0.8 / len(columns)
    for number, column in enumerate(columns):
        for place, row in enumerate(rows):
            (value,) = _values(report, row, (column,))
            if _is_figure(value):
                at = place + (number - (len(columns) - 1) / 2) * thickness
                axis.barh(at, value, thickness * 0.9, color=COLOURS[number % len(COLOURS)])
                axis.annotate(
                    show(value), (value, at), (3, 0), textcoords="offset points", va="center",
                    fontsize=8, color=INK,
                )  # fmt: skip
        axis.barh(0, 0, 0, color=COLOURS[number % len(COLOURS)], label=column)
    axis.set_yticks(range(len(rows)), [_label(report, row) for row in rows], fontsize=9)
    axis.invert_yaxis()
    axis.margins(x=0.12)
    axis.set_xlim(left=min(0, axis.get_xlim()[0]))
    if len(columns) > 1:
        axis.legend(fontsize=8, frameon=False)
    else:
        axis.set_xlabel(columns[0], fontsize=9, color=INK)


def _height(report: Report, columns: tuple[str, ...]) -> float:
    """Inches."""
    return 0.6 + 0.3 * len(report.rows) * max(1.0, 0.6 * len(columns))


def _label(report: Report, row: tuple[Any, ...]) -> str:
    """What the row is of: its words, the first two of them."""
    words = [value for value in row if isinstance(value, str) and value != "–"]
    return "  ".join(words[:2]) if words else str(row[0])


def _values(report: Report, row: tuple[Any, ...], columns: tuple[str, ...]) -> list[Any]:
    return [row[report.columns.index(column)] for column in columns]


def _numeric(report: Report) -> list[str]:
    """Columns of figures; the first one names the rows."""
    return [
        name
        for place, name in enumerate(report.columns)
        if place > 0 and any(_is_figure(row[place]) for row in report.rows)
    ]


def _is_figure(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
