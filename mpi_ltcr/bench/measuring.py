"""Rates to be trusted on a machine that others use as well: pieces in turn, medians, CPU time beside wall time."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from statistics import median
from typing import Any, NamedTuple

import numpy

from mpi_ltcr import __version__
from mpi_ltcr.comm import runtime


class Asked(NamedTuple):
    """What a bench was asked for."""

    preset: str | None = None
    """Of LTCR; None: each part's own choice."""
    seconds: float = 0.3
    """Of one measurement of one piece."""
    repeats: int = 5
    """Measurements of each piece."""
    frames: int = 3000
    """Of the training in `train`."""
    json: bool = False


class Piece(NamedTuple):
    """Something that is measured: `work(n)` does n units of it."""

    name: str
    unit: str
    work: Callable[[int], object]
    floor: str = ""
    """The piece that it is set beside."""
    group: str = ""
    """Pieces of one group make up a whole, of which each has its share: `per_whole` units of each."""
    per_whole: float = 1.0


class Cost(NamedTuple):
    """Of one unit, medians over the repeats; `cpu` by repeat."""

    wall_s: float
    cpu_s: float
    cpu: list[float]


class Bench(NamedTuple):
    """One table: a title, and rows that all have the same columns."""

    title: str
    rows: list[dict[str, Any]]


def clocks() -> tuple[float, float]:
    """Wall time, and CPU time of this process with all its threads; s."""
    return time.perf_counter(), time.process_time()


def measure(pieces: list[Piece], asked: Asked) -> dict[str, Cost]:
    """The cost of each piece, all measured in turn so that what slows the machine down for a while slows all down."""
    counts = {piece.name: _enough(piece.work, asked.seconds) for piece in pieces}
    seen: dict[str, list[tuple[float, float]]] = {piece.name: [] for piece in pieces}
    for _ in range(asked.repeats):
        for piece in pieces:
            wall, cpu = clocks()
            piece.work(counts[piece.name])
            later_wall, later_cpu = clocks()
            n = counts[piece.name]
            seen[piece.name].append(((later_wall - wall) / n, (later_cpu - cpu) / n))
    return {
        name: Cost(median(wall for wall, _ in costs), median(cpu for _, cpu in costs), [cpu for _, cpu in costs])
        for name, costs in seen.items()
    }


def _enough(work: Callable[[int], object], seconds: float) -> int:
    """Units that take about `seconds` of CPU time; doing them warms up as well."""
    n = 1
    while True:
        start = time.process_time()
        work(n)
        spent = time.process_time() - start
        if spent >= seconds / 4:
            return max(1, round(n * seconds / spent))
        n *= 2


def table(title: str, pieces: list[Piece], costs: dict[str, Cost]) -> Bench:
    """A row for each piece: its rates, its cost in floors (CPU time, median over repeats), its share of its group."""
    whole: dict[str, float] = {}
    for piece in pieces:
        whole[piece.group] = whole.get(piece.group, 0.0) + piece.per_whole * costs[piece.name].cpu_s
    rows = []
    for piece in pieces:
        cost = costs[piece.name]
        row: dict[str, Any] = {"piece": piece.name, "unit": piece.unit}
        row["per_cpu_s"], row["per_wall_s"] = _rate(cost.cpu_s), _rate(cost.wall_s)
        row["floor"] = piece.floor or None
        row["times_floor"] = times_floor(cost, costs[piece.floor]) if piece.floor else None
        row["share"] = piece.per_whole * cost.cpu_s / whole[piece.group] if piece.group and whole[piece.group] else None
        rows.append(row)
    return Bench(title, rows)


def times_floor(cost: Cost, floor: Cost) -> float:
    """How many floors a piece costs: the median of the ratios of CPU time in each repeat."""
    return median(a / max(b, 1e-12) for a, b in zip(cost.cpu, floor.cpu, strict=True))


def _rate(seconds: float) -> float:
    return 1 / max(seconds, 1e-12)


def facts(ranks: int) -> dict[str, Any]:
    """What the figures belong to."""
    return {
        "mpi_ltcr": __version__,
        "python": platform.python_version(),
        "numpy": numpy.__version__,
        "torch": version("torch"),
        "mpi": runtime.library(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "ranks": ranks,
    }


def text_of(bench: Bench) -> str:
    """A table in aligned columns."""
    names = list(bench.rows[0])
    cells = [names, *([_cell(name, row[name]) for name in names] for row in bench.rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(names))]
    left = [isinstance(bench.rows[0][name], str) or name == "floor" for name in names]
    lines = [
        "  ".join(c.ljust(w) if is_text else c.rjust(w) for c, w, is_text in zip(row, widths, left, strict=True))
        for row in cells
    ]
    return "\n".join([bench.title, *(line.rstrip() for line in lines)])


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if name == "share":
        return f"{100 * value:.1f} %"
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"
