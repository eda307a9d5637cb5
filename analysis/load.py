"""Runs from the command line to curves: which logs belong together, and at which frames they can be compared.

Runs may be finished or still going on: a log is replaced whole while it grows, so what is read is always consistent.
"""

from __future__ import annotations

import argparse
import operator
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from stats import trailing_mean

from mpi_ltcr.archive.reader import Log, ReadError, read_logs

FORMATS = (".png", ".pdf", ".svg")
NOT_LEARNING = frozenset({"name", "seed", "out", "frames", "env", "log", "checkpoint", "runtime", "agent.backend"})
"""Fields of a configuration in which runs of one method may differ; `env` is compared for all methods together."""


class FigureError(Exception):
    """These runs do not give this figure; the text is one line that says why."""


class Group(NamedTuple):
    """The logs behind one line of a figure: a method's, or those of one agent of it."""

    label: str
    method: str
    agent: int | None
    logs: list[Log]

    @property
    def seeds(self) -> np.ndarray:
        """The seed of each log, (C,)."""
        return np.array([int(log.attributes["seed"]) for log in self.logs])


class Curves(NamedTuple):
    """`values` (C, F) of C logs at the same `frames` (F,); `longest` is the last frame that any of them has."""

    frames: np.ndarray
    values: np.ndarray
    longest: int


# -------------------- command line


def make_parser(
    description: str, output: str, kind: Callable[[str], Path] | None = None, what: str = ""
) -> argparse.ArgumentParser:
    """A parser with what every figure takes: runs, `-o` and `--mixed`. `kind` and `what`: of another output's path."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run directory, finished or still running")
    add_output(parser, output, *((kind, what) if kind else ()))
    parser.add_argument(
        "--mixed", action="store_true", help="draw runs of different environments, or unlike runs of one name, together"
    )
    return parser


def add_output(
    parser: argparse.ArgumentParser,
    default: str,
    kind: Callable[[str], Path] | None = None,
    what: str = "figure to write; its numbers go to the .csv beside",
) -> None:
    """`-o`: where the figure goes; the CSV lies beside it."""
    parser.add_argument("-o", "--output", type=kind or figure_path, default=default, help=what)


def figure_path(text: str) -> Path:
    """A path whose ending matplotlib can write, for argparse."""
    path = Path(text)
    if path.suffix not in FORMATS:
        raise argparse.ArgumentTypeError(f"{text}: end it in one of {', '.join(FORMATS)}")
    return path


def positive(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    if not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text}: a whole number of at least 1 is needed")
    return int(text)


def natural(text: str) -> int:
    """A whole number of at least 0, for argparse."""
    return 0 if text == "0" else positive(text)


def execute(draw: Callable[[argparse.Namespace], None], asked: argparse.Namespace) -> int:
    """Draw; what cannot be drawn is told in one line on stderr. The exit code: 0, or 2."""
    try:
        draw(asked)
    except (FigureError, ReadError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


# -------------------- runs


def open_logs(runs: Sequence[Path], *, mixed: bool = False) -> list[Log]:
    """All logs of these runs, in their order; a run that is named twice counts once.

    Raises:
        ReadError: something is not a run, or has not published a log yet.
        FigureError: a run is not of LTCR, or the runs cannot be compared and `mixed` does not ask for it.
    """
    folders = {run.resolve(): run for run in runs}
    logs = [log for run in folders.values() for log in read_logs(run)]
    for log in logs:
        if log.config["program"] != "ltcr":
            raise FigureError(f"{run_of(log)}: is a run of {log.config['program']}; this figure is of LTCR")
    if not mixed:
        check_alike(logs)
    return logs


def run_of(log: Log) -> Path:
    """The run directory that a log lies in."""
    return log.path.parent.parent


def method_of(log: Log) -> str:
    """The configuration's name, which is the method's name in figures."""
    return str(log.attributes["name"])


def check_alike(logs: list[Log]) -> None:
    """Raise FigureError unless all have one environment, and all of one name the same settings."""
    for log in logs:
        for field, one, other in differences({"env": logs[0].config["env"]}, {"env": log.config["env"]}):
            raise FigureError(
                f"{run_of(log)}: {field} is {other!r}, but {one!r} in {run_of(logs[0])}; "
                "draw them apart, or together with --mixed"
            )
    check_twins(logs)


def check_twins(logs: list[Log]) -> None:
    """Raise FigureError unless all logs of one name have the same settings."""
    first: dict[str, Log] = {}
    for log in logs:
        twin = first.setdefault(method_of(log), log)
        for field, one, other in differences(twin.config, log.config):
            if field in NOT_LEARNING or field.split(".")[0] in NOT_LEARNING:
                continue
            raise FigureError(
                f"{run_of(log)}: called {method_of(log)} like {run_of(twin)}, but {field} is {other!r} and not "
                f"{one!r}; name its runs apart (train --name), or draw them as one with --mixed"
            )


def differences(one: Any, other: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Dotted names of the fields in which two configurations differ, with both values."""
    if not (isinstance(one, dict) and isinstance(other, dict)):
        if one != other:
            yield name, one, other
        return
    for key in [*one, *(key for key in other if key not in one)]:
        yield from differences(one.get(key), other.get(key), f"{name}.{key}" if name else key)


def grouped(logs: list[Log], by: str = "name") -> list[Group]:
    """Logs by method ("name"), or by method and number of the agent ("agent"), in their order."""
    groups: dict[tuple[str, int | None], list[Log]] = {}
    for log in logs:
        groups.setdefault((method_of(log), log.agent if by == "agent" else None), []).append(log)
    return [
        Group(method if agent is None else f"{method}, agent {agent}", method, agent, members)
        for (method, agent), members in sorted(groups.items(), key=lambda item: _place(item[0], list(groups)))
    ]


def _place(key: tuple[str, int | None], keys: list[tuple[str, int | None]]) -> tuple[int, int]:
    """Methods in the order of the command line, the agents of one by number."""
    method, agent = key
    return [other for other, _ in keys].index(method), agent or 0


# -------------------- curves


def read_curves(
    logs: list[Log],
    table: str,
    column: str | Callable[[dict[str, np.ndarray]], np.ndarray],
    *,
    window: int,
    shared: bool,
) -> Curves | None:
    """A column of each log as a trailing mean over `window` frames, at frames that all logs have reached.

    Args:
        column: its name, or what makes it of the table's columns; NaN is no value.
        shared: True for what is recorded at given frames (`eval`, `probe`): read at the frames common to all logs.
            False for what happens when it happens (`episodes`), or very often (`exchange`): read every window/5.

    None if there is no frame yet at which every log has a value.
    """
    columns = [log.table(table) for log in logs]
    read = column if callable(column) else operator.itemgetter(column)
    rows = [(c["frames"], read(c).astype(float)) for c in columns]
    rows = [(frames[np.isfinite(values)], values[np.isfinite(values)]) for frames, values in rows]
    if any(len(frames) == 0 for frames, _ in rows):
        return None
    at = _shared_frames(rows) if shared else _spaced_frames(columns, window)
    values = np.array([trailing_mean(frames, values, at, window) for frames, values in rows]).reshape(len(rows), -1)
    known = np.isfinite(values).all(axis=0)
    if not known.any():
        return None
    return Curves(at[known], values[:, known], max(int(c["frames"][-1]) for c in columns))


def _shared_frames(rows: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    return np.asarray(reduce(np.intersect1d, [frames for frames, _ in rows]))


def _spaced_frames(columns: list[dict[str, np.ndarray]], window: int) -> np.ndarray:
    step = max(1, window // 5)
    return np.arange(step, min(int(c["frames"][-1]) for c in columns) + 1, step)
