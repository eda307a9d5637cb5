"""What the ships of Space Battle do: does a team shoot, hit and win, and how far are its agents apart?

    python analysis/battles.py runs/9-1-* runs/alone-* -o battles.png

Six panels over frames, a line for each method: share of fire among a ship's actions ("rarely shoot", LTCR 4.2, as a
number), enemies and mates hit in a game, share of games won, KL between teammates on a fixed set of (s, a), and how
much their expected values differ over it. Games are those of the training, with its exploration. A line is the mean
over agents and seeds as a trailing average, its band the 95 % bootstrap band over seeds.

The CSV has a row for each panel, line and frame: panel, method, frames, value, low, high (empty for one seed), seeds,
curves. The last row of each line is printed, too.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import NamedTuple

import load
import numpy as np
import pandas as pd
import style
from matplotlib.axes import Axes
from stats import bootstrap, mean


class Panel(NamedTuple):
    """One quantity: from which table, how it is read from its columns, and what its axis says."""

    table: str
    value: str | Callable[[dict[str, np.ndarray]], np.ndarray]
    title: str


def of_training(column: str) -> Callable[[dict[str, np.ndarray]], np.ndarray]:
    """A column of `battles`, NaN (no value) in the games of evaluations."""

    def read(table: dict[str, np.ndarray]) -> np.ndarray:
        values = table[column].astype(float)
        return np.where(table["evaluation"] == 1, np.nan, values) if "evaluation" in table else values

    return read


def won(table: dict[str, np.ndarray]) -> np.ndarray:
    """1 for a training game that was won, 0 for another."""
    result = of_training("result")(table)
    return np.where(np.isfinite(result), (result == 1).astype(float), np.nan)


PANELS = {
    "fire": Panel("battles", of_training("fire_fraction"), "share of fire among actions"),
    "enemy hits": Panel("battles", of_training("enemy_hits"), "enemies hit by a ship in a game"),
    "friend hits": Panel("battles", of_training("friend_hits"), "mates hit by a ship in a game"),
    "won": Panel("battles", won, "share of games won"),
    "KL": Panel("probe", "kl_teammates", "KL(teammate ‖ self), fixed (s, a) (nats)"),
    "spread": Panel("probe", "value_spread", "spread of values, fixed (s, a) (scaled reward)"),
}


def main(argv: list[str] | None = None) -> int:
    """Draw what the command line asks for. Returns the exit code."""
    parser = load.make_parser("What the ships of Space Battle do, one line for each method.", "battles.png")
    parser.add_argument("--window", type=load.positive, default=10_000, help="frames of the trailing average")
    return load.execute(draw, parser.parse_args(argv))


@style.applied()
def draw(asked: argparse.Namespace) -> None:
    """The figure and its CSV."""
    groups = load.grouped(load.open_logs(asked.runs, mixed=asked.mixed))
    figure, axes = style.new_figure(2, 3, 10.2, 5.6 + 0.17 * len(groups))
    parts = []
    for (name, panel), ax in zip(PANELS.items(), axes.flat, strict=True):
        lines = [draw_line(ax, name, panel, group, number, asked.window) for number, group in enumerate(groups)]
        parts += [line for line in lines if line is not None]
        ax.set_title(panel.title)
        style.count_frames(ax)
    if not parts:
        raise load.FigureError(
            f"{asked.runs[0]}: no games of Space Battle yet; battles are logged where ranks share one"
        )
    style.legend(figure)
    style.save(figure, pd.concat(parts), asked.output)


def draw_line(ax: Axes, name: str, panel: Panel, group: load.Group, number: int, window: int) -> pd.DataFrame | None:
    """One method in one panel, as drawn and as rows of the CSV; None if there is nothing."""
    curves = load.read_curves(group.logs, panel.table, panel.value, window=window, shared=panel.table == "probe")
    if curves is None:
        return None
    band = bootstrap(curves.values, group.seeds, mean)
    style.draw_band(ax, curves.frames, band, group.label, style.look(number, number, len(curves.frames)))
    interval = f" [{band.low[-1]:.3g}, {band.high[-1]:.3g}]" if band.seeds > 1 else ""
    print(f"{name}, {group.label}: {style.count(band)}; at frame {curves.frames[-1]} {band.value[-1]:.3g}{interval}")
    columns = {"frames": curves.frames, "value": band.value, "low": band.low, "high": band.high}
    return pd.DataFrame({"panel": name, "method": group.method, **columns, "seeds": band.seeds, "curves": band.curves})


if __name__ == "__main__":
    sys.exit(main())
