"""How asynchronous a run of cA3C was: staleness of the gradients, throughput, waiting.

    python analysis/staleness.py runs/cdrl-collaborative runs/a3c-pong -o staleness.png

Left: the share of gradients by the number of updates that the server made between the weights a gradient was computed
with and those it was applied to. A worker alone with its server has 0 only. Middle: steps of a task in each second of
wall time, all workers together, averaged over a fiftieth of the run. Right: the share of its time that each worker
waits for its server; the rest is acting and computing gradients. Several runs of a method are put together.

The CSV has a row for each point: panel (staleness, throughput, waiting), label, method, task, x, value. x is a number
of updates, seconds of wall time, or the rank of a worker.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import load
import numpy as np
import pandas as pd
import style
import tasks
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from mpi_ltcr.archive.reader import Log, read_logs

BINS = 50
"""Parts of a run's wall time over which throughput is averaged."""
SHOWN = 0.999
"""Share of the gradients whose staleness is within the figure; the CSV has all."""


def main(argv: list[str] | None = None) -> int:
    """Draw what the command line asks for. Returns the exit code."""
    parser = load.make_parser("Staleness of gradients, throughput and waiting of cA3C.", "staleness.png")
    parser.add_argument("--task", action="append", default=[], help="only this task; may be given several times")
    return load.execute(draw, parser.parse_args(argv))


@style.applied()
def draw(asked: argparse.Namespace) -> None:
    """The figure and its CSV."""
    lines = tasks.read_lines(asked.runs, asked.task, mixed=asked.mixed)
    figure, axes = style.new_figure(1, 3, 11.2, 3.5 + 0.17 * len(lines))
    parts = []
    for number, line in enumerate(lines):
        for (panel, measure), ax in zip(PANELS.items(), axes[0], strict=True):
            x, values = measure(line.logs)
            if len(x) == 0:
                continue
            DRAWN[panel](ax, x, values, number, style.plain(line.label))
            labels = {"panel": panel, "label": line.label, "method": line.method, "task": line.task}
            parts.append(pd.DataFrame({**labels, "x": x, "value": values}))
        print(f"{line.label}: {report(line.logs)}")
    if not parts:
        raise load.FigureError(f"{asked.runs[0]}: no gradient has been applied yet")
    _label(*axes[0], waiters=len(lines))
    style.legend(figure)
    style.save(figure, pd.concat(parts), asked.output)


# -------------------- what is measured


def staleness(logs: list[Log]) -> tuple[np.ndarray, np.ndarray]:
    """0, 1, 2, ... updates, and the share of all gradients that were so stale. (S,), (S,)."""
    stale = np.concatenate([log.table("pushes")["staleness"] for log in logs])
    counts = np.bincount(stale)
    return np.arange(len(counts)), counts / max(1, len(stale))


def throughput(logs: list[Log]) -> tuple[np.ndarray, np.ndarray]:
    """Middles of equal parts of the wall time, in s, and steps per second in each, mean over runs. (B,), (B,)."""
    columns = [log.table("pushes") for log in logs]
    columns = [c for c in columns if len(c["wall_s"])]
    if not columns:
        return np.empty(0), np.empty(0)
    edges = np.linspace(0, min(c["wall_s"][-1] for c in columns), BINS + 1)
    rates = [np.histogram(c["wall_s"], edges, weights=c["steps"])[0] / np.diff(edges) for c in columns]
    return (edges[1:] + edges[:-1]) / 2, np.mean(rates, axis=0)


def waiting(logs: list[Log]) -> tuple[np.ndarray, np.ndarray]:
    """Ranks of the workers whose gradients came, and the share of its time that each waited. (W,), (W,)."""
    ranks, shares = [], []
    for log in logs:
        mine = set(log.table("pushes")["worker"].tolist())
        for worker in read_logs(load.run_of(log)):
            if worker.agent in mine:
                rollouts = worker.table("rollouts")
                waited, worked = rollouts["wait_s"].sum(), rollouts["work_s"].sum()
                ranks.append(worker.agent)
                shares.append(waited / (waited + worked) if waited + worked else np.nan)
    return np.array(ranks), np.array(shares)


def report(logs: list[Log]) -> str:
    """One line on stdout."""
    tables = [log.table("pushes") for log in logs]
    stale = np.concatenate([table["staleness"] for table in tables])
    if len(stale) == 0:
        return "no gradient has been applied yet"
    seconds = sum(table["wall_s"][-1] for table in tables if len(table["wall_s"]))
    rate = sum(table["steps"].sum() for table in tables) / seconds
    return (
        f"{len(stale)} gradients; staleness mean {stale.mean():.2f}, largest {stale.max()}; "
        f"{rate:.1f} steps/s; waiting {100 * np.nanmean(waiting(logs)[1]):.1f} %"
    )


# -------------------- how it is drawn


def _draw_staleness(ax: Axes, x: np.ndarray, values: np.ndarray, number: int, label: str) -> None:
    most = int(np.searchsorted(np.cumsum(values), SHOWN)) + 1
    ax.plot(x[:most], values[:most], label=label, **style.look(number, number, most))


def _draw_throughput(ax: Axes, x: np.ndarray, values: np.ndarray, number: int, label: str) -> None:
    ax.plot(x, values, label=label, **style.look(number, number, len(x)))


def _draw_waiting(ax: Axes, x: np.ndarray, values: np.ndarray, number: int, label: str) -> None:
    look = style.look(number, number, 1)
    offsets = np.linspace(-0.2, 0.2, len(x)) if len(x) > 1 else np.zeros(1)
    ax.plot(number + offsets, 100 * values, color=look["color"], marker=look["marker"], linestyle="", markersize=5)
    ax.plot([number - 0.3, number + 0.3], [100 * np.nanmean(values)] * 2, color=look["color"], linewidth=1.4)


def _label(stale: Axes, rate: Axes, wait: Axes, *, waiters: int) -> None:
    stale.set_title("staleness")
    stale.set_xlabel("updates between reading and applying")
    stale.set_ylabel("share of gradients")
    stale.xaxis.set_major_locator(MaxNLocator(integer=True))
    stale.set_ylim(bottom=0)
    rate.set_title("throughput")
    rate.set_xlabel("wall time (s)")
    rate.set_ylabel("steps of the task per second")
    rate.set_ylim(bottom=0)
    rate.set_xlim(left=0)
    wait.set_title("waiting")
    wait.set_ylabel("% of a worker's time; bar: mean")
    wait.set_xticks(range(waiters), [])
    wait.set_xlabel("a point for each worker")
    wait.set_ylim(bottom=0)


PANELS: dict[str, Callable[[list[Log]], tuple[np.ndarray, np.ndarray]]] = {
    "staleness": staleness,
    "throughput": throughput,
    "waiting": waiting,
}
DRAWN: dict[str, Callable[[Axes, np.ndarray, np.ndarray, int, str], None]] = {
    "staleness": _draw_staleness,
    "throughput": _draw_throughput,
    "waiting": _draw_waiting,
}

if __name__ == "__main__":
    sys.exit(main())
