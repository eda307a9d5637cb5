"""The run directory: who owns it, what it holds, and what its state is.

config.yaml   resolved, `--config` reads it back      status.json  state, frames, heartbeat, exit code: the authority
meta.json     versions, host, MPI, argv               run.lock     who is writing
logs/agent0000.h5 ...  checkpoints/step_*/  crash/  teams/ (of earlier teams, see `regroup.py`)
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import time
from pathlib import Path
from typing import Any

from mpi_ltcr.archive.atomic import write_json, write_text
from mpi_ltcr.archive.lock import HeldError, Lock

STATES = ("running", "completed", "preempted", "failed")
STATUS_FIELDS = {"state": str, "frames": int, "checkpoint": int, "attempt": int, "exit_code": int, "error": str} | {
    "heartbeat": float
}
"""Of status.json -> type. Programs may write fewer."""


class RunDirectoryError(Exception):
    """The directory cannot be used; the text says why and what to do."""


def new_name(name: str, seed: int) -> str:
    """A fresh directory name, e.g. ``ltcr-cartpole-9-1-s1-20261122-141530-a1b2c3d4``."""
    return f"{name}-s{seed}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(4)}"


class RunDirectory:
    """Paths and small files of one run."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.logs = root / "logs"
        self.checkpoints = root / "checkpoints"
        self.config = root / "config.yaml"
        self.status = root / "status.json"
        self._lock = Lock(root / "run.lock")

    def log(self, agent: int) -> Path:
        """The log file of one agent."""
        return self.logs / f"agent{agent:04d}.h5"

    def task_checkpoints(self, task: str) -> Path:
        """Where the checkpoints of one task of cA3C stand: each task is saved by its own server, in its own time."""
        return self.checkpoints / task

    def create(self, config_yaml: str, meta: dict[str, Any]) -> None:
        """Make the directory and its first files, and lock it.

        Raises:
            RunDirectoryError: it exists and is not empty, or cannot be made. Nothing is ever overwritten.
        """
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,128}", self.root.name):
            raise RunDirectoryError(f"out: {self.root.name!r} is no name for a run; use letters, digits, '.', '_', '-'")
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            if any(self.root.iterdir()):
                raise RunDirectoryError(f"out: {self.root} exists already; choose another --out, or mpi-ltcr resume it")
            self.lock()
            for folder in (self.logs, self.checkpoints):
                folder.mkdir()
            write_text(self.config, config_yaml)
            write_json(self.root / "meta.json", meta)
        except OSError as error:
            raise RunDirectoryError(
                f"out: {self.root} cannot be made: {error.strerror}; choose another --out"
            ) from None

    def open(self, *, force_unlock: bool = False) -> None:
        """Take over an existing run. Raises RunDirectoryError if it is none, or somebody is writing into it."""
        if not self.config.is_file():
            raise RunDirectoryError(f"{self.root}: not a run directory (no config.yaml); mpi-ltcr train makes one")
        self.lock(force=force_unlock)
        self.logs.mkdir(exist_ok=True)  # all of them may have been moved away
        for leftover in self.root.rglob(".*.tmp"):  # of a process that was killed while it wrote
            if leftover.is_file():
                leftover.unlink(missing_ok=True)  # or of one that wants the lock this moment

    def lock(self, *, force: bool = False) -> None:
        """Become the one writer. Raises RunDirectoryError if somebody else is."""
        try:
            self._lock.take(force=force)
        except HeldError as error:
            raise RunDirectoryError(f"{self.root}: {error}") from None

    def unlock(self) -> None:
        """Let go; only what this process holds."""
        self._lock.give_back()

    def owner(self) -> str:
        """Of the lock: "alive", "gone", "elsewhere" (on another host, so that we cannot know), or "none"."""
        return self._lock.owner()

    def write_status(self, **fields: Any) -> None:
        """Merge fields into status.json, atomically, with a fresh heartbeat."""
        write_json(self.status, {**self.read_status(), **fields, "heartbeat": round(time.time(), 3)})

    def record_failure(self, attempt: int, text: str, code: int) -> bool:
        """Write down why an attempt failed. False if another rank has done so already: one failure, one report."""
        (self.root / "crash").mkdir(exist_ok=True)
        try:
            with open(self.root / "crash" / f"attempt{attempt}.txt", "x", encoding="utf-8") as handle:
                handle.write(text + "\n")
        except FileExistsError:
            return False
        self.write_status(state="failed", exit_code=code, error=text.split("\n")[-1])
        return True

    def read_status(self) -> dict[str, Any]:
        """The content of status.json, its fields of their types; empty where there is none yet, or it is damaged."""
        with contextlib.suppress(RunDirectoryError):
            return self.checked_status()
        return {}

    def checked_status(self) -> dict[str, Any]:
        """The same; raises RunDirectoryError, naming what is wrong with it, if it is damaged."""
        try:
            status = json.loads(self.status.read_text(encoding="utf-8"))
            for name, kind in STATUS_FIELDS.items():
                value = status.get(name, kind())
                sound = isinstance(value, (int, float) if kind is float else kind) and not isinstance(value, bool)
                if not sound or (kind is not str and not abs(value) < 2**63):
                    raise ValueError(f"{name}: {value!r:.40} is no {kind.__name__}")
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, AttributeError, RecursionError) as error:
            raise RunDirectoryError(f"{self.status} is damaged ({error}); resume writes a new one") from None
        return dict(status)
