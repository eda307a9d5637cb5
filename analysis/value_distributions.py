"""LTCR Fig. 5: the value distribution at one (s, a) as training goes on, a row for each method.

    python analysis/value_distributions.py runs/9-1-s1 runs/alone-s1 -o fig5.png
    python analysis/value_distributions.py runs/9-1-* runs/alone-* --state 3 --agent 1

Bars are all atoms, the inset atoms 46 to 50 of 51 as in the paper. (s, a) is a probe state of the run (0: the zero
observation) with the action that is greedy there at the last frame, the same in a whole row: distributions of
different actions are no measure of stability. A row shows one agent of one run, of the lowest seed that all methods
have; states other than 0 are other ones for each seed.

How stable are they? Titles, stdout and CSV tell how far each distribution is from the one before: the total variation
(share of mass that moved) and the Cramér distance (which also counts how far). stdout has their means over all runs
and agents.

The CSV has a row for each run, agent, frame and atom: method, run, seed, agent, state, action, frames, atom (from 1),
z, probability, and total_variation, cramer from the distribution before (empty for the first).
"""

from __future__ import annotations

import argparse
import sys
from itertools import pairwise
from typing import NamedTuple

import load
import numpy as np
import pandas as pd
import style
from matplotlib.axes import Axes
from stats import cramer_distance, total_variation

from mpi_ltcr.archive.reader import Log
from mpi_ltcr.archive.schema import TABLES

INSET_ATOMS = slice(-6, -1)
"""Atoms 46 to 50 of 51."""


class Trace(NamedTuple):
    """Z(s, a) of one agent at some frames: `masses` (F, K) on the support `z` (K,)."""

    log: Log
    action: int
    z: np.ndarray
    frames: list[int]
    masses: np.ndarray

    def changes(self) -> dict[int, tuple[float, float]]:
        """By frame: total variation and Cramér distance from the distribution at the frame before."""
        pairs = zip(self.frames[1:], pairwise(self.masses), strict=True)
        return {frame: (total_variation(p, q), cramer_distance(p, q, self.z)) for frame, (p, q) in pairs}


def main(argv: list[str] | None = None) -> int:
    """Draw what the command line asks for. Returns the exit code."""
    parser = load.make_parser("LTCR Fig. 5: value distributions, a row for each method.", "value_distributions.png")
    parser.add_argument("--state", type=int, default=0, help="number of the probe state, 0: the zero observation")
    parser.add_argument("--agent", type=int, default=0, help="number of the agent that is drawn")
    parser.add_argument("--frames", type=int, nargs="+", metavar="FRAME", help="columns (default: all frames logged)")
    return load.execute(draw, parser.parse_args(argv))


@style.applied()
def draw(asked: argparse.Namespace) -> None:
    """The figure and its CSV."""
    groups = load.grouped(load.open_logs(asked.runs, mixed=asked.mixed))
    seed = shared_seed(groups, asked.state)
    traces = {group.label: [read_trace(log, asked.state, asked.frames) for log in group.logs] for group in groups}
    columns = sorted({frame for members in traces.values() for trace in members for frame in trace.frames})
    width, height = max(5.4, 2.7 * len(columns)), 2.6 * len(groups) + 0.6
    figure, axes = style.new_figure(len(groups), len(columns), width, height, sharey=True)
    for number, (group, row) in enumerate(zip(groups, axes, strict=True)):
        shown = choose(group, traces[group.label], seed, asked.agent)
        for ax, frame in zip(row, columns, strict=True):
            draw_panel(ax, shown, frame, style.OKABE_ITO[number % len(style.OKABE_ITO)])
        seed_shown = shown.log.attributes["seed"]
        row[0].set_ylabel(f"{style.plain(group.label)}\nseed {seed_shown}, agent {asked.agent}\nprobability")
        report(group, traces[group.label])
    leave_room(axes)
    z, count = shown.z, len(shown.z)
    for ax in axes[-1]:
        ax.set_xlabel(f"atom (1: {z[0]:g}, {count}: {z[-1]:g} {TABLES['distributions']['z'].units})")
    figure.suptitle(
        f"Z(s, a) at probe state {asked.state}; insets: atoms {count - 5} to {count - 1} of {count}\n"
        "TV, Cramér: distance from the distribution to the left",
    )
    style.save(figure, table_of(traces, asked.state), asked.output)


# -------------------- reading


def shared_seed(groups: list[load.Group], state: int) -> int | None:
    """The lowest seed that all methods have; None if there is none and each method shows its own lowest."""
    common = set.intersection(*(set(group.seeds.tolist()) for group in groups))
    if not common and state != 0:
        raise load.FigureError(f"--state {state}: is another state for each seed, and these methods share no seed")
    return min(common, default=None)


def read_trace(log: Log, state: int, frames: list[int] | None) -> Trace:
    """Z(s, a) of one agent at the asked frames (None: all logged ones), a the greedy action at the last of them."""
    table = log.table("distributions")
    logged = np.unique(table["frames"]).tolist()
    chosen = [frame for frame in logged if frames is None or frame in frames]
    if not chosen:
        asked = log.config["log"]["distributions_at"] if frames is None else frames
        raise load.FigureError(f"{log.path}: no distributions at {asked} (yet); it has {logged}")
    if state not in table["state"]:
        raise load.FigureError(f"--state {state}: the probe states are 0 to {table['state'].max()}")
    here = table["state"] == state
    z = table["z"][here & (table["frames"] == chosen[0]) & (table["action"] == 0)]
    masses = np.zeros((len(chosen), table["action"].max() + 1, len(z)))
    for i, frame in enumerate(chosen):
        rows = here & (table["frames"] == frame)
        masses[i, table["action"][rows], table["atom"][rows] - 1] = table["probability"][rows]
    action = int((masses[-1] @ z).argmax())
    return Trace(log, action, z, chosen, masses[:, action])


def choose(group: load.Group, traces: list[Trace], seed: int | None, agent: int) -> Trace:
    """The trace that is drawn of a method."""
    seed = min(group.seeds) if seed is None else seed
    for trace in traces:
        if (trace.log.attributes["seed"], trace.log.agent) == (seed, agent):
            return trace
    raise load.FigureError(f"--agent {agent}: {group.label}, seed {seed}, has no such agent")


# -------------------- drawing and telling


def draw_panel(ax: Axes, trace: Trace, frame: int, colour: str) -> None:
    """All atoms as bars, and the inset in the upper half, which `leave_room` clears for it."""
    if frame not in trace.frames:
        ax.set_title(f"frame {frame}: not reached")
        return
    masses = trace.masses[trace.frames.index(frame)]
    atoms = np.arange(1, len(masses) + 1)
    ax.bar(atoms, masses, width=0.85, color=colour)
    ax.set_xticks(np.linspace(1, len(masses), 6).round())
    inset = ax.inset_axes((0.2, 0.6, 0.6, 0.36))
    inset.bar(atoms[INSET_ATOMS], masses[INSET_ATOMS], width=0.7, color=colour)
    inset.set_xticks(atoms[INSET_ATOMS])
    inset.tick_params(labelsize=7)
    change = trace.changes().get(frame)
    told = f"\nTV {change[0]:.3f}, Cramér {change[1]:.2f} reward^½" if change else ""
    ax.set_title(f"frame {frame}, action {trace.action}{told}", fontsize=8)


def leave_room(axes: np.ndarray) -> None:
    """Lift the common y limit so that bars end below the insets, and give all insets one scale."""
    top = max((bar.get_height() for ax in axes.flat for bar in ax.patches), default=1.0)
    axes[0, 0].set_ylim(0, 2.15 * top)
    axes[0, 0].set_yticks([tick for tick in axes[0, 0].get_yticks() if tick <= top])
    insets = [inset for ax in axes.flat for inset in ax.child_axes]
    highest = max((bar.get_height() for inset in insets for bar in inset.patches), default=1.0)
    for inset in insets:
        inset.set_ylim(0, 1.1 * highest)


def report(group: load.Group, traces: list[Trace]) -> None:
    """On stdout: how far successive distributions are apart, averaged over all runs and agents."""
    print(f"{group.label}: {style.numbers(len(set(group.seeds.tolist())), len(traces))}")
    changes = [trace.changes() for trace in traces]
    for frame in sorted({frame for change in changes for frame in change}):
        known = [change[frame] for change in changes if frame in change]
        variation, cramer = np.mean(known, axis=0)
        units = f"{TABLES['distributions']['z'].units}^½"
        print(
            f"  up to frame {frame}: total variation {variation:.4f}, Cramér distance {cramer:.4f} {units} "
            f"(mean of {len(known)})"
        )


def table_of(traces: dict[str, list[Trace]], state: int) -> pd.DataFrame:
    """Every distribution, atom by atom, as rows of the CSV."""
    parts = []
    for method, members in traces.items():
        for trace in members:
            changes = trace.changes()
            for frame, masses in zip(trace.frames, trace.masses, strict=True):
                variation, cramer = changes.get(frame, (np.nan, np.nan))
                whose = {"seed": trace.log.attributes["seed"], "agent": trace.log.agent}
                what = {"state": state, "action": trace.action, "frames": frame}
                atoms = {"atom": np.arange(1, len(masses) + 1), "z": trace.z, "probability": masses}
                apart = {"total_variation": variation, "cramer": cramer}
                run = load.run_of(trace.log).name
                parts.append(pd.DataFrame({"method": method, "run": run, **whose, **what, **atoms, **apart}))
    return pd.concat(parts)


if __name__ == "__main__":
    sys.exit(main())
