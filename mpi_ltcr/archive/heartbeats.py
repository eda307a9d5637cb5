"""Signs of life of a run's ranks: a small file for each, renewed every few seconds, and reports of hangs.

    heartbeat/rank0000.json             newest pulse: time, host, pid, phase, seconds without progress
    hang/attempt1-rank0000.txt          what a rank had to say when nothing went on any more

Replaced whole, but not fsynced: what a power loss takes of them is of no use anyway.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

MAX_BYTES = 65_536


class Heartbeats:
    """The board on which the ranks of one attempt see each other without MPI.

    Args:
        root: the run directory.
        attempt: its number, counted from 1.
    """

    def __init__(self, root: Path, attempt: int) -> None:
        self.folder, self.hang, self.attempt = root / "heartbeat", root / "hang", attempt

    def publish(self, rank: int, content: dict[str, Any]) -> None:
        """Replace a rank's file. Raises OSError if the disk does not take it."""
        self.folder.mkdir(exist_ok=True)
        path = self.folder / f"rank{rank:04d}.json"
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            temporary.write_text(json.dumps({"attempt": self.attempt, **content}), encoding="utf-8")
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def read(self) -> dict[int, dict[str, Any]]:
        """The newest pulse of each rank of this attempt; what is no pulse is passed over."""
        return {rank: pulse for rank, pulse in read_heartbeats(self.folder).items() if pulse["attempt"] == self.attempt}

    def report(self, rank: int, text: str) -> None:
        """Keep a rank's report of a hang."""
        self.hang.mkdir(exist_ok=True)
        self._report(rank).write_text(text, encoding="utf-8")

    def reported(self, rank: int) -> bool:
        """Whether a rank has reported in this attempt."""
        return self._report(rank).exists()

    def _report(self, rank: int) -> Path:
        return self.hang / f"attempt{self.attempt}-rank{rank:04d}.txt"


def read_heartbeats(folder: Path) -> dict[int, dict[str, Any]]:
    """Rank -> its published pulse, of whatever attempt; `folder` may be missing."""
    found = {}
    for path in sorted(folder.glob("rank*.json")):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
            if path.is_file() and path.stat().st_size <= MAX_BYTES:
                pulse = _checked(json.loads(path.read_text(encoding="utf-8")))
                found[pulse["rank"]] = pulse
    return found


def _checked(pulse: dict[str, Any]) -> dict[str, Any]:
    """The same with its fields of their types. Raises KeyError, ValueError or TypeError for what is no pulse."""
    waits = pulse["waits"]
    kinds = {"rank": int, "attempt": int, "pid": int, "beats": int, "collectives": int, "time": float}
    return {
        **{name: kind(pulse[name]) for name, kind in kinds.items()},
        **{"host": str(pulse["host"]), "phase": str(pulse["phase"]), "silence_s": float(pulse["silence_s"])},
        "waits": waits and {"what": str(waits["what"])} | {k: [int(v) for v in waits[k]] for k in ("ranks", "place")},
        "entered": [(int(communicator), int(number)) for communicator, number in pulse["entered"]],
    }
