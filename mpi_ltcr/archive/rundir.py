"""The run directory: who owns it, what it holds, and what its state is.

config.yaml   resolved, `--config` reads it back      status.json  state, frames, heartbeat, exit code: the authority
meta.json     versions, host, MPI, argv               run.lock     who is writing
logs/agent0000.h5 ...  checkpoints/step_*/  crash/  teams/ (of earlier teams, see `regroup.py`)
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import socket
import time
from pathlib import Path
from typing import Any

from mpi_ltcr.archive.atomic import write_json, write_text

STATES = ("running", "completed", "preempted", "failed")


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
        if force_unlock:
            (self.root / "run.lock").unlink(missing_ok=True)
        self.lock()
        for leftover in self.root.rglob(".*.tmp"):  # of a process that was killed while it wrote
            if leftover.is_file():
                leftover.unlink()

    def lock(self) -> None:
        """Become the one writer; a lock left by a dead process of this host is taken over."""
        path = self.root / "run.lock"
        mine = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), **_slurm_start()})
        for _ in range(2):
            with contextlib.suppress(FileExistsError):
                descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
                with os.fdopen(descriptor, "w") as handle:
                    handle.write(mine)
                return
            holder = _read_json(path)
            if _alive(holder):
                raise RunDirectoryError(
                    f"{self.root}: in use by process {holder.get('pid')} on {holder.get('host')}; "
                    f"if that one is gone: mpi-ltcr resume {self.root} --force-unlock"
                )
            path.unlink(missing_ok=True)
        raise RunDirectoryError(f"{self.root}: run.lock is contested; try again")

    def unlock(self) -> None:
        """Let go; only what this process holds."""
        path = self.root / "run.lock"
        holder = _read_json(path)
        if (holder.get("host"), holder.get("pid")) == (socket.gethostname(), os.getpid()):
            path.unlink(missing_ok=True)

    def owner(self) -> str:
        """Of the lock: "alive", "gone", "elsewhere" (on another host, so that we cannot know), or "none"."""
        holder = _read_json(self.root / "run.lock")
        if not holder:
            return "none"
        if holder.get("host") != socket.gethostname():
            return "elsewhere"
        return "alive" if _alive(holder) else "gone"

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
        """The content of status.json, empty where there is none yet."""
        return _read_json(self.status)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _slurm_start() -> dict[str, str]:
    """Which start of which SLURM job this is; empty texts elsewhere."""
    return {"job": os.environ.get("SLURM_JOB_ID", ""), "start": os.environ.get("SLURM_RESTART_COUNT", "0")}


def _alive(holder: dict[str, Any]) -> bool:
    """Whether the holder of a lock may still be writing; of another host we cannot know, so: yes.

    But a job that SLURM starts once more, maybe on another host, has ended before, or its node is lost.
    """
    if not holder:
        return False
    if holder.get("host") != socket.gethostname():
        mine = _slurm_start()
        return not (mine["job"] and holder.get("job") == mine["job"] and holder.get("start") != mine["start"])
    try:
        pid = int(holder["pid"])
        os.kill(pid, 0)
        stat = Path(f"/proc/{pid}/stat")  # a zombie is dead: some containers never reap
        return not (stat.is_file() and stat.read_text().rsplit(")", 1)[1].split()[0] == "Z")
    except ProcessLookupError:
        return False
    except (KeyError, ValueError, TypeError, OverflowError, OSError):
        return True
