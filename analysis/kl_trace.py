"""LTCR Fig. 2: how far teammates' value distributions are apart, over frames, one line for each method.

    python analysis/kl_trace.py runs/9-1-* runs/7-3-* runs/5-5-* -o fig2.png

Left: on the sample drawn from M0 in each round, before anyone digests it (Phase 3); its states change with the
policies. Right: on a fixed set of (s, a), the same through the whole run; agents that learn alone have this one, too.
Each agent's log holds KL(teammate || itself) in nats per (s, a), averaged over its teammates; a line is the mean over
agents and seeds, its band the 95 % bootstrap band over seeds.

The CSV has a row for each panel, line and frame: panel (drawn, fixed), method, frames, kl, low, high (empty for one
seed), seeds, curves.
"""

from __future__ import annotations

import argparse
import sys

import load
import pandas as pd
import style
from matplotlib.axes import Axes
from stats import bootstrap, mean

from mpi_ltcr.archive.schema import TABLES

PANELS = {"drawn": "exchange", "fixed": "probe"}
TITLES = {"drawn": "on the sample drawn from M0, before Digest", "fixed": "on a fixed set of (s, a)"}


def main(argv: list[str] | None = None) -> int:
    """Draw what the command line asks for. Returns the exit code."""
    parser = load.make_parser("LTCR Fig. 2: KL between teammates, one line for each method.", "kl_trace.png")
    parser.add_argument("--window", type=load.positive, default=500, help="frames of the trailing average")
    parser.add_argument("--scale", choices=("log", "linear"), default="log", help="of the axis of KL")
    return load.execute(draw, parser.parse_args(argv))


@style.applied()
def draw(asked: argparse.Namespace) -> None:
    """The figure and its CSV."""
    groups = load.grouped(load.open_logs(asked.runs, mixed=asked.mixed))
    figure, axes = style.new_figure(1, 2, 9.6, 3.9 + 0.17 * len(groups), sharey=True)
    parts = []
    for (panel, table), ax in zip(PANELS.items(), axes[0], strict=True):
        for number, group in enumerate(groups):
            part = draw_line(ax, panel, table, group, number, asked.window)
            if part is not None:
                parts.append(part)
    if not parts:
        raise load.FigureError(f"{asked.runs[0]}: no KL between teammates; it needs two agents, and a first exchange")
    for panel, ax in zip(PANELS, axes[0], strict=True):
        _label(ax, panel, asked.scale)
    style.legend(figure)
    units = TABLES["probe"]["kl_teammates"].units
    axes[0, 0].set_ylabel(f"KL(teammate ‖ self) per (s, a) ({units})\nmean, trailing {asked.window} frames")
    style.save(figure, pd.concat(parts), asked.output)


def draw_line(ax: Axes, panel: str, table: str, group: load.Group, number: int, window: int) -> pd.DataFrame | None:
    """One method in one panel, as drawn and as rows of the CSV; None if it has no KL there (learning alone)."""
    curves = load.read_curves(group.logs, table, "kl_teammates", window=window, shared=table == "probe")
    if curves is None:
        print(f"{group.label}, {panel}: no KL between teammates here")
        return None
    band = bootstrap(curves.values, group.seeds, mean)
    style.draw_band(ax, curves.frames, band, group.label, style.look(number, number, len(curves.frames)))
    first, last = curves.frames[[0, -1]]
    top = band.value.argmax()
    print(
        f"{group.label}, {panel}: {style.count(band)}; frames {first} to {last}; largest {band.value[top]:.3g} at "
        f"frame {curves.frames[top]}, at the end {band.value[-1]:.3g}"
    )
    columns = {"frames": curves.frames, "kl": band.value, "low": band.low, "high": band.high}
    return pd.DataFrame({"panel": panel, "method": group.method, **columns, "seeds": band.seeds, "curves": band.curves})


def _label(ax: Axes, panel: str, scale: str) -> None:
    ax.set_title(TITLES[panel])
    style.count_frames(ax)
    ax.set_yscale(scale)
    if scale == "linear":
        ax.set_ylim(bottom=0)


if __name__ == "__main__":
    sys.exit(main())
