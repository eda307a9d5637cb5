"""run.lock: who writes into a run directory. One process at most, also where a file system knows no locks.

A lock is there with its content or not at all: it is written beside and linked. Who finds one that a dead process has
left becomes its heir first, under a name that is made of that lock's content and can be linked once; only the heir
renames his own over it. So of rivals who judge the same lock, at whatever moments, one wins.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import socket
import time
from pathlib import Path
from typing import Any

ATTEMPTS = 10
NO_LINKS = {errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
"""What file systems say that have no hard links."""
FILLED_S = 0.5
"""Where there are none, a lock is made before it is filled: how long an empty one may be in the making."""


class HeldError(Exception):
    """Somebody else has it; the text says who, and what to do."""


class Lock:
    """The lock at `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def take(self, *, force: bool = False) -> None:
        """Become the holder; what a dead process of this host has left is taken over, with `force` whatever is there.

        Raises:
            HeldError: somebody else may still be writing, or has just been faster.
        """
        mine = {"host": socket.gethostname(), "pid": os.getpid(), "token": secrets.token_hex(8), **_slurm_start()}
        _claim(self.path, json.dumps(mine).encode(), force)

    def give_back(self) -> None:
        """Let go; only what this process holds."""
        holder = _parsed(_content(self.path))
        if (holder.get("host"), holder.get("pid")) == (socket.gethostname(), os.getpid()):
            self.path.unlink(missing_ok=True)

    def owner(self) -> str:
        """The holder is "alive", "gone", "elsewhere" (on another host, so that we cannot know), or "none"."""
        try:
            holder = _parsed(_content(self.path))
        except OSError:
            return "none"
        if not holder:
            return "none"
        if holder.get("host") != socket.gethostname():
            return "elsewhere"
        return "alive" if _alive(holder) else "gone"


def _claim(path: Path, mine: bytes, force: bool = False) -> None:
    """Make `path` a file of this content, whoever else tries to. Raises HeldError."""
    for _ in range(ATTEMPTS):
        with contextlib.suppress(FileExistsError, FileNotFoundError):  # the latter: who has won swept the draft away
            _create(path, mine)
            return
        left = _content(path)
        if left == mine:  # a network file system did it, and lost the answer
            return
        if left is None:
            continue
        holder = _parsed(left)
        if not force and _alive(holder):
            raise HeldError(
                f"in use by process {holder.get('pid')} on {holder.get('host')}; "
                f"if that one is gone: mpi-ltcr resume {path.parent} --force-unlock"
            )
        heir = path.with_name(f".{hashlib.sha256(left).hexdigest()}.tmp")
        _claim(heir, mine)
        if _content(path) == left:  # nobody else may change it now
            with contextlib.suppress(FileNotFoundError):  # somebody used force
                os.replace(heir, path)
                return
        heir.unlink(missing_ok=True)
    raise HeldError(f"{path.name} is contested; try again")


def _create(path: Path, content: bytes) -> None:
    """A new file, at once with its content. Raises FileExistsError."""
    draft = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        draft.write_bytes(content)
        os.link(draft, path)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        with open(path, "xb") as handle:
            handle.write(content)
    finally:
        draft.unlink(missing_ok=True)


def _content(path: Path) -> bytes | None:
    """Of a lock; None if there is none."""
    for seconds in (FILLED_S, 0):
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        if content:
            break
        time.sleep(seconds)
    return content


def _parsed(content: bytes | None) -> dict[str, Any]:
    """Who holds a lock of this content; empty if that cannot be told."""
    try:
        holder = json.loads(content or b"")
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}


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
