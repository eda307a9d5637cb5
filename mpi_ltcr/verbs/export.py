"""`mpi-ltcr export`: a run's logs and weights for other tools, from its published files alone.

RUN/export/csv/agent0000/eval.csv ...            every table, raw
RUN/export/tensorboard/agent0000/events...       tags as Stable-Baselines3 names them
RUN/export/agent0000.safetensors ...             weights of the newest whole checkpoint, flat, as they are saved
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mpi_ltcr.archive import checkpoint
from mpi_ltcr.archive.reader import Log, ReadError, open_log
from mpi_ltcr.archive.schema import TABLES
from mpi_ltcr.config import ConfigError
from mpi_ltcr.verbs.checks import Parser, complain, require_run

TAGS = {
    "rollout/ep_rew_mean": ("episodes", "return"),
    "rollout/ep_len_mean": ("episodes", "length"),
    "eval/mean_reward": ("eval", "return"),
    "eval/mean_ep_length": ("eval", "length"),
    "train/loss": ("train", "td_loss"),
    "train/distill_loss": ("train", "distill_loss"),
    "train/exploration_rate": ("train", "epsilon"),
    "train/policy_gradient_loss": ("rollouts", "policy_loss"),
    "train/value_loss": ("rollouts", "value_loss"),
    "train/entropy": ("rollouts", "entropy"),
    "exchange/kl_teammates": ("probe", "kl_teammates"),
    "server/staleness": ("pushes", "staleness"),
    "time/fps": ("perf", "frames_per_s"),
}
"""TensorBoard's tag -> (table, column); averaged over rows of equal `frames`, which are its steps."""


def export(arguments: list[str]) -> None:
    """Write a run's logs as CSV or for TensorBoard, or its newest weights as safetensors, into RUN/export."""
    parser = Parser("mpi-ltcr export", description=export.__doc__)
    parser.add_argument("run", type=Path, help="the run directory")
    for name, what in (("csv", "a file for each table"), ("tensorboard", "event files"), ("safetensors", "weights")):
        parser.add_argument(f"--{name}", action="store_true", help=what)
    parser.add_argument("--out", type=Path, help="another folder (default RUN/export)")
    asked = parser.parse_args(arguments)
    wanted = [write for name, write in WAYS.items() if getattr(asked, name)]
    if not wanted:
        raise ConfigError("export: say what for: --csv, --tensorboard or --safetensors")
    require_run(asked.run)
    try:
        for write in wanted:
            print(write(asked.run, asked.out or asked.run / "export"))
    except ReadError as error:
        raise ConfigError(str(error)) from None
    except checkpoint.CheckpointError as error:
        complain(str(error))
        sys.exit(65)


def logs_of(run: Path) -> list[Log]:
    """Of all agents and servers. Raises ReadError if there are none yet."""
    paths = sorted((run / "logs").glob("*.h5"))
    if not paths:
        raise ReadError(f"{run}: no logs yet; nothing to export")
    return [open_log(path) for path in paths]


def write_csv(run: Path, out: Path) -> str:
    """Every table of every log, as it is. Returns what was done, in words."""
    files = 0
    for log in logs_of(run):
        folder = out / "csv" / log.path.stem
        folder.mkdir(parents=True, exist_ok=True)
        for name in TABLES:
            columns = log.table(name)
            with open(folder / f"{name}.csv", "w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerow(columns)
                writer.writerows(zip(*(column.tolist() for column in columns.values()), strict=True))
            files += 1
    return f"{files} tables: {out / 'csv'}"


def write_tensorboard(run: Path, out: Path) -> str:
    """One run of TensorBoard for each log. Returns what was done, in words."""
    writer_of: Any = needed("torch.utils.tensorboard", "tensorboard").SummaryWriter
    points = 0
    for log in logs_of(run):
        folder = out / "tensorboard" / log.path.stem
        for old in folder.glob("events.*"):  # it would be shown beside the new one
            old.unlink()
        with writer_of(str(folder)) as writer:
            for tag, frames, value, when in scalars(log):
                writer.add_scalar(tag, value, frames, walltime=when)
                points += 1
    return f"{points} points: tensorboard --logdir {out / 'tensorboard'}"


def scalars(log: Log) -> Iterator[tuple[str, int, float, float]]:
    """(tag, frames, mean value there, wall time of the run in s) of whatever has a value."""
    for tag, (name, column) in TAGS.items():
        rows = log.table(name)
        values = np.asarray(rows[column], np.float64)
        sound = np.isfinite(values)
        steps, first, place = np.unique(rows["frames"][sound], return_index=True, return_inverse=True)
        means = np.bincount(place, values[sound]) / np.maximum(1, np.bincount(place))
        for step, value, when in zip(steps, means, rows["wall_s"][sound][first], strict=True):
            yield tag, int(step), float(value), float(when)


def write_safetensors(run: Path, out: Path) -> str:
    """The arrays of the newest whole checkpoint that are weights: one file for each of its files."""
    save: Any = needed("safetensors.numpy", "safetensors").save_file
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for checkpoints in (run / "checkpoints", *sorted(p for p in (run / "checkpoints").glob("*") if p.is_dir())):
        if not checkpoint.folders(checkpoints):
            continue
        folder, _ = checkpoint.newest_whole(checkpoints)
        for path in sorted(folder.glob("*.h5")):
            weights = dict(weights_in(checkpoint.load_file(path)))
            if weights:
                label = "" if checkpoints.name == "checkpoints" else f"{checkpoints.name}-"
                name = f"{label}{path.stem.replace('rank', 'agent')}.safetensors"
                save(weights, str(out / name), metadata={"run": run.name, "checkpoint": folder.name})
                written.append(name)
    if not written:
        raise checkpoint.CheckpointError(f"{run}: no checkpoint yet; nothing to export")
    return f"{', '.join(written)}: {out}"


def weights_in(state: dict[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """Of an LTCR agent: `weights`, `target_weights`; of a parameter server: `values`. Flat float32."""
    for place, leaf in checkpoint.flatten(state):
        if place.split("/")[-1] in ("weights", "target_weights", "values") and isinstance(leaf, np.ndarray):
            yield place, np.ascontiguousarray(leaf, np.float32)


def needed(module: str, package: str) -> Any:
    """An optional library. Raises ConfigError with the command that installs it."""
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError:
        raise ConfigError(f"--{package}: {package} is not installed; pip install {package}") from None


WAYS: dict[str, Callable[[Path, Path], str]] = {
    "csv": write_csv,
    "tensorboard": write_tensorboard,
    "safetensors": write_safetensors,
}
