"""CDRL Fig. 3, 4 and 6: returns of training episodes over the steps of each task.

    python analysis/task_curve.py runs/cdrl-collaborative-* runs/a3c-bowling-* -o fig6d.png
    python analysis/task_curve.py runs/cdrl-collaborative-* --task bowling

The horizontal axis is T, the steps of one task by all of its workers together, by which T1 and T2 are counted too. A
curve is the mean return of the task's last 100 training episodes (of fewer at the start), whichever worker played
them. A line is the mean over the runs of a method, one seed each, its band one standard deviation of those runs to
either side: the paper's "+-". Each environment has a panel. Runs of unequal length are compared over the steps that
all runs of a line have; the number in the legend is that of each run's own last 100 episodes: "mean +- sd".

The CSV has a row for each line and step: label, method, task, env, steps, return, sd, runs, last_return, last_sd (sd is
empty for one run).
"""

from __future__ import annotations

import argparse
import sys
from typing import NamedTuple

import load
import numpy as np
import pandas as pd
import style
import tasks
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter

from mpi_ltcr.archive.schema import TABLES

POINTS = 200
"""Steps at which a line is drawn."""


class Curve(NamedTuple):
    """Mean and standard deviation over R runs at steps (F,), and of the runs' last episodes."""

    steps: np.ndarray
    mean: np.ndarray
    sd: np.ndarray
    last_mean: float
    last_sd: float
    runs: int
    episodes: int
    """Episodes that the shortest run has had."""


def main(argv: list[str] | None = None) -> int:
    """Draw what the command line asks for. Returns the exit code."""
    parser = load.make_parser("CDRL Fig. 3, 4, 6: returns over the steps of each task.", "task_curve.png")
    parser.add_argument("--task", action="append", default=[], help="only this task; may be given several times")
    parser.add_argument("--episodes", type=load.positive, default=100, help="of the trailing mean")
    return load.execute(draw, parser.parse_args(argv))


@style.applied()
def draw(asked: argparse.Namespace) -> None:
    """The figure and its CSV."""
    lines = tasks.read_lines(asked.runs, asked.task, mixed=asked.mixed)
    envs = list(dict.fromkeys(line.env for line in lines))
    figure, axes = style.new_figure(1, len(envs), 1.6 + 4.8 * len(envs), 3.7 + 0.17 * len(lines))
    parts = []
    for number, line in enumerate(lines):
        curve = curve_of(line, asked.episodes)
        if curve is None:
            print(f"{line.label}: no training episode has ended yet in all of its runs")
            continue
        draw_line(axes[0, envs.index(line.env)], line, curve, number, asked.episodes)
        print(f"{line.label}: {report(curve, asked.episodes)}; steps {curve.steps[0]} to {curve.steps[-1]}")
        parts.append(rows(line, curve))
    if not parts:
        raise load.FigureError(f"{asked.runs[0]}: no training episode has ended yet")
    for env, ax in zip(envs, axes[0], strict=True):
        _label(ax, env)
    unit = TABLES["returns"]["return"].units
    axes[0, 0].set_ylabel(f"return of a training episode ({unit})\nmean of the last {asked.episodes}")
    style.legend(figure, "bands: one standard deviation over runs")
    style.save(figure, pd.concat(parts), asked.output)


def curve_of(line: tasks.Line, episodes: int) -> Curve | None:
    """Trailing means over episodes at evenly spaced steps that all runs have; None before each run's first episode."""
    played = [tasks.episodes_of(log) for log in line.logs]
    if any(len(steps) == 0 for steps, _ in played):
        return None
    first, last = max(steps[0] for steps, _ in played), min(steps[-1] for steps, _ in played)
    if last < first:
        return None
    at = np.unique(np.linspace(first, last, POINTS).astype(np.int64))
    means = np.stack([trailing_mean(steps, returns, at, episodes) for steps, returns in played])
    lasts = np.array([returns[-episodes:].mean() for _, returns in played])
    fewest = min(len(returns) for _, returns in played)
    return Curve(at, means.mean(axis=0), spread(means), float(lasts.mean()), float(spread(lasts)), len(played), fewest)


def trailing_mean(steps: np.ndarray, returns: np.ndarray, at: np.ndarray, episodes: int) -> np.ndarray:
    """Mean of the last `episodes` returns up to each step of `at`, of fewer at the start. (E,), (E,), (F,) -> (F,)."""
    sums = np.concatenate([[0.0], np.cumsum(returns)])
    count = np.searchsorted(steps, at, side="right")
    start = np.maximum(count - episodes, 0)
    average: np.ndarray = (sums[count] - sums[start]) / (count - start)
    return average


def spread(values: np.ndarray) -> np.ndarray:
    """Standard deviation over R runs, with R - 1 in the denominator; NaN for one run. (R, ...) -> (...)."""
    deviation: np.ndarray = values.std(axis=0, ddof=1) if len(values) > 1 else np.full(values.shape[1:], np.nan)
    return deviation


def draw_line(ax: Axes, line: tasks.Line, curve: Curve, number: int, episodes: int) -> None:
    """A line with its band, and what the runs had in the end in its label."""
    look = style.look(number, number, len(curve.steps))
    if curve.runs > 1:
        ax.fill_between(
            curve.steps, curve.mean - curve.sd, curve.mean + curve.sd, color=look["color"], alpha=0.18, linewidth=0
        )
    ax.plot(curve.steps, curve.mean, label=f"{style.plain(line.label)}: {report(curve, episodes)}", **look)


def report(curve: Curve, episodes: int) -> str:
    """The last episodes in words: the number that the paper gives."""
    sd = f" ± {curve.last_sd:.2f}" if curve.runs > 1 else ""
    return f"last {min(episodes, curve.episodes)} episodes {curve.last_mean:.2f}{sd}, n = {curve.runs}"


def rows(line: tasks.Line, curve: Curve) -> pd.DataFrame:
    """A line of the figure as rows of the CSV."""
    return pd.DataFrame(
        {
            "label": line.label,
            "method": line.method,
            "task": line.task,
            "env": line.env,
            "steps": curve.steps,
            "return": curve.mean,
            "sd": curve.sd,
            "runs": curve.runs,
            "last_return": curve.last_mean,
            "last_sd": curve.last_sd,
        }
    )


def _label(ax: Axes, env: str) -> None:
    ax.set_title(style.plain(env))
    ax.set_xlabel("T, steps of the task by all workers")
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    ax.set_xlim(left=0)


if __name__ == "__main__":
    sys.exit(main())
