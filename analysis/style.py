"""How all figures look: colour-blind safe, and legible in grey by line styles and markers. Needs no display."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from stats import Band

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""The palette of Okabe and Ito (2008) without its yellow, which vanishes on white."""
LINES = ("-", "--", "-.", (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)))
MARKERS = "osD^vPX"
GREY = "0.35"
MARKS = 8
"""Markers on one curve."""

FONT: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 9,
    "figure.titlesize": 9,
    "legend.fontsize": 8,
    "legend.title_fontsize": 8,
}


def applied() -> Any:
    """The context in which figures are drawn and saved; also a decorator: `@style.applied()`."""
    return matplotlib.rc_context(FONT)


def new_figure(rows: int, columns: int, width: float, height: float, **options: Any) -> tuple[Figure, np.ndarray]:
    """A figure of width x height inches and its (rows, columns) axes. `options` go to `Figure.subplots`."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(color="0.9", linewidth=0.6)
        ax.set_axisbelow(True)
    return figure, axes


def look(colour: int, line: int, points: int) -> dict[str, Any]:
    """Colour, line style and sparse markers of a curve with so many points."""
    every = max(1, points // MARKS)
    return {
        "color": OKABE_ITO[colour % len(OKABE_ITO)],
        "linestyle": LINES[line % len(LINES)],
        "marker": MARKERS[line % len(MARKERS)],
        "markevery": (every * (1 + 2 * (line % 4)) // 8, every),
        "markersize": 4,
        "linewidth": 1.4,
    }


def numbers(seeds: int, curves: int) -> str:
    """How many seeds and curves there are, in words."""
    return f"n = {seeds} seed{'s' * (seeds > 1)}" + (f", {curves} curves" if curves != seeds else "")


def count(band: Band) -> str:
    """How many seeds and curves stand behind a line."""
    return numbers(band.seeds, band.curves) + (", no band" if band.seeds == 1 else "")


def draw_band(ax: Axes, frames: np.ndarray, band: Band, label: str, look: dict[str, Any]) -> None:
    """A line with its band, the number of seeds in its label."""
    if band.seeds > 1:
        ax.fill_between(frames, band.low, band.high, color=look["color"], alpha=0.18, linewidth=0)
    ax.plot(frames, band.value, label=f"{plain(label)} ({count(band)})", **look)


def plain(text: str) -> str:
    """Text as it is: a dollar sign in a run's name starts no formula."""
    return text.replace("$", r"\$")


def count_frames(ax: Axes) -> None:
    """An x axis in frames, with k and M for thousands and millions."""
    ax.set_xlabel("frames of each agent")
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    ax.set_xlim(left=0)


def legend(figure: Figure, bands: str = "bands: 95 % bootstrap over seeds") -> None:
    """One legend for all axes, in a strip above them, where it can hide nothing; it says what bands are, if any."""
    entries = {}
    for ax in figure.axes:
        handles, labels = ax.get_legend_handles_labels()
        entries.update(dict(zip(labels, handles, strict=True)))
    banded = any(ax.collections for ax in figure.axes)
    figure.legend(
        entries.values(),
        entries,
        loc="outside upper left",
        title=bands if banded else None,
        alignment="left",
        frameon=False,
        handlelength=3.2,
    )


def save(figure: Figure, table: pd.DataFrame, output: Path) -> None:
    """Write the figure to `output` and its numbers to the .csv beside it, and name both on stdout."""
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=160)
    csv = output.with_suffix(".csv")
    table.to_csv(csv, index=False)
    print(f"figure: {output}")
    print(f"numbers: {csv}")
