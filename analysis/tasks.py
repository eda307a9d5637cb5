"""Runs of cA3C to lines of a figure: the servers' logs, one for each task of each run.

A server's log counts T, the steps of its task by all workers together, and holds a row for each gradient and for each
episode of training.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import load
import numpy as np

from mpi_ltcr.archive.reader import Log, read_logs


class Line(NamedTuple):
    """The logs behind one line of a figure: of one task of one method, a seed each."""

    label: str
    method: str
    task: str
    env: str
    """The task's environment, in words."""
    logs: list[Log]


def read_lines(runs: Sequence[Path], tasks: Sequence[str] = (), *, mixed: bool = False) -> list[Line]:
    """A line for each method and task, in the order of the command line; a run that is named twice counts once.

    Args:
        tasks: names of those that are wanted; none: all.

    Raises:
        ReadError: something is not a run, or has not published a log yet.
        FigureError: a run is not of cA3C, has none of these tasks, or is unlike another one of its name.
    """
    folders = {run.resolve(): run for run in runs}
    logs = [log for run in folders.values() for log in read_logs(run)[:1]]
    for log in logs:
        if log.config["program"] != "ca3c":
            raise load.FigureError(f"{load.run_of(log)}: is a run of {log.config['program']}; this figure is of cA3C")
    if not mixed:
        load.check_twins(logs)
    servers = [server for run in folders.values() for server in read_logs(run, "server")]
    names = sorted({str(task_of(log)["name"]) for log in servers})
    for task in tasks:
        if task not in names:
            raise load.FigureError(f"--task {task}: these runs have {', '.join(names)}")
    lines: dict[tuple[str, str, str], list[Log]] = {}
    for log in servers:
        task = task_of(log)
        if not tasks or task["name"] in tasks:
            lines.setdefault((load.method_of(log), task["name"], env_of(task)), []).append(log)
    return [_line(*key, members) for key, members in lines.items()]


def _line(method: str, task: str, env: str, logs: list[Log]) -> Line:
    alone = len(logs[0].config["tasks"]) == 1
    return Line(method if alone else f"{method}, {task}", method, task, env, logs)


def task_of(log: Log) -> dict[str, Any]:
    """The configuration of a server's task."""
    return dict(log.config["tasks"][log.agent])


def env_of(task: dict[str, Any]) -> str:
    """A task's environment in words, e.g. "Atari-v0, game Pong"."""
    kwargs = ", ".join(f"{name} {value}" for name, value in task["env"]["kwargs"].items())
    return task["env"]["id"].split("/")[-1] + (f", {kwargs}" if kwargs else "")


def episodes_of(log: Log) -> tuple[np.ndarray, np.ndarray]:
    """T at the end of each training episode of a task, of whichever worker, and its return. (E,), (E,)."""
    returns = log.table("returns")
    return returns["frames"], returns["return"]
