"""LTCR Fig. 4, 6 and 7: returns over frames, one line for each method.

    python analysis/learning_curve.py runs/9-1-* runs/alone-* -o fig4.png
    python analysis/learning_curve.py runs/zaxxon-9-1-* runs/zaxxon-alone-* --window 50000 -o fig6.png
    python analysis/learning_curve.py runs/2v2-* --window 1000 -o fig7.png
    python analysis/learning_curve.py runs/9-1-* --by agent --statistic iqm

One curve is one agent of one run: its returns (of evaluations, or of training episodes) as a trailing average, as the
paper's "moving averages over 500 frames" of CartPole (Atari is evaluated every 5 000 or 10 000). A line is the mean or
the interquartile mean over all curves of a method, its band the 95 % bootstrap band over seeds, each drawn with all of
its agents. Runs of unequal length are compared over the frames that all runs of the method have.

The CSV has a row for each line and frame: group, method, agent (empty: all), statistic, frames, return, low, high
(empty for one seed), seeds, curves.
"""

from __future__ import annotations

import argparse
import sys

import load
import pandas as pd
import style
from matplotlib.axes import Axes
from stats import STATISTICS, Band, bootstrap

from mpi_ltcr.archive.schema import TABLES

NAMES = {"eval": "return of an evaluation episode", "episodes": "return of a training episode"}


def main(argv: list[str] | None = None) -> int:
    """Draw what the command line asks for. Returns the exit code."""
    parser = load.make_parser("LTCR Fig. 4 and 7: learning curves, one line for each method.", "learning_curve.png")
    parser.add_argument("--by", choices=("name", "agent"), default="name", help="a line for each name, or each agent")
    parser.add_argument("--statistic", choices=tuple(STATISTICS), default="mean", help="over the curves of a line")
    parser.add_argument("--table", choices=tuple(NAMES), default="eval", help="evaluations, or training episodes")
    parser.add_argument("--window", type=load.positive, default=500, help="frames of the trailing average")
    return load.execute(draw, parser.parse_args(argv))


@style.applied()
def draw(asked: argparse.Namespace) -> None:
    """The figure and its CSV."""
    groups = load.grouped(load.open_logs(asked.runs, mixed=asked.mixed), asked.by)
    methods = list(dict.fromkeys(group.method for group in groups))
    figure, axes = style.new_figure(1, 1, 6.4, 3.9 + 0.17 * len(groups))
    ax = axes[0, 0]
    parts = []
    for number, group in enumerate(groups):
        curves = load.read_curves(group.logs, asked.table, "return", window=asked.window, shared=asked.table == "eval")
        if curves is None:
            raise load.FigureError(f"{group.label}: no {asked.table} at frames that all its runs have reached yet")
        band = bootstrap(curves.values, group.seeds, STATISTICS[asked.statistic])
        line = number if group.agent is None else group.agent
        look = style.look(methods.index(group.method), line, len(curves.frames))
        style.draw_band(ax, curves.frames, band, group.label, look)
        print(report(group, curves, band, asked.window))
        parts.append(rows(group, curves, band, asked.statistic))
    _label(ax, asked, of_a_team=all(group.logs[0].config["env"]["shared"] for group in groups))
    style.legend(figure)
    style.save(figure, pd.concat(parts), asked.output)


def report(group: load.Group, curves: load.Curves, band: Band, window: int) -> str:
    """One line on stdout: how many seeds, which frames, and where the line ends."""
    ends = f"{band.value[-1]:.4g}" + (f" [{band.low[-1]:.4g}, {band.high[-1]:.4g}]" if band.seeds > 1 else "")
    first, last = curves.frames[[0, -1]]
    short = f" (its longest run has {curves.longest})" if curves.longest - last > window else ""
    return f"{group.label}: {style.count(band)}; frames {first} to {last}{short}; at the end {ends}"


def rows(group: load.Group, curves: load.Curves, band: Band, statistic: str) -> pd.DataFrame:
    """A line of the figure as rows of the CSV."""
    return pd.DataFrame(
        {
            "group": group.label,
            "method": group.method,
            "agent": "" if group.agent is None else group.agent,
            "statistic": statistic,
            "frames": curves.frames,
            "return": band.value,
            "low": band.low,
            "high": band.high,
            "seeds": band.seeds,
            "curves": band.curves,
        }
    )


def _label(ax: Axes, asked: argparse.Namespace, *, of_a_team: bool) -> None:
    """`of_a_team`: the return is what the team dealt minus what it took, shared by its agents (Fig. 7)."""
    style.count_frames(ax)
    statistic = {"mean": "mean", "iqm": "interquartile mean"}[asked.statistic]
    units = "health points, the team's" if of_a_team else TABLES[asked.table]["return"].units
    ax.set_ylabel(f"{NAMES[asked.table]}\n({units})\n{statistic}, trailing {asked.window} frames")


if __name__ == "__main__":
    sys.exit(main())
