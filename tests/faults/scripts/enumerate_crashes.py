"""Crash at every call that changes a file, through the publication of a log and the commit of a checkpoint, or through
the regrouping of a team, or the last save of a cA3C server.

    LD_PRELOAD=crash.so python enumerate_crashes.py FOLDER MODE STRIDE THING

    MODE: kill, torn, or a number of errno      THING: save, regroup, server (`served.py`)

A child for each crash point; whatever it leaves must be the previous state or the new one, whole, and the next attempt
must be able to go on from it. Prints a JSON object: how many calls there are, how each point ended.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import regrouped

from mpi_ltcr.archive import checkpoint
from mpi_ltcr.archive.reader import open_log
from mpi_ltcr.archive.recorder import Recorder
from mpi_ltcr.archive.rundir import RunDirectory
from mpi_ltcr.archive.schema import TABLES, columns
from mpi_ltcr.archive.segments import Shelf
from mpi_ltcr.archive.verification import verify_run
from mpi_ltcr.interfaces import Sealed

DISK = ctypes.CDLL(None)
DISK.crash_seen.restype = ctypes.c_long
DISK.crash_arm.argtypes = [ctypes.c_char_p, ctypes.c_long, ctypes.c_char_p]
ROWS = {100: 300, 200: 700}
"""Rows of the log when the checkpoint of that frame is taken."""
SEGMENTS = {100: (0, 1), 200: (1, 2)}
"""Of the replay: one has come, one has gone, one is shared."""
RANKS = 2


def state(frames: int, rank: int) -> dict[str, Any]:
    """What a rank saves: numbers that belong to this frame alone."""
    rng = np.random.default_rng([frames, rank])
    arrays = {"weights": rng.normal(size=3000).astype(np.float32), "replay": rng.integers(0, 255, 5000, np.uint8)}
    seen = {f"{key:06d}": Sealed(segment(key, rank)) for key in SEGMENTS[frames]}
    return {"arrays": arrays, "rng": rng.bit_generator.state, "rows": ROWS[frames], "nothing": None, "seen": seen}


def segment(key: int, rank: int) -> dict[str, Any]:
    """A full segment of a replay of frames, which never changes again."""
    return {"frames": np.random.default_rng([7, key, rank]).integers(0, 255, 4000, np.uint8)}


class Writer:
    """A rank 0 that does what a session does, with the real functions."""

    def __init__(self, root: Path) -> None:
        self.run = RunDirectory(root)
        self.recorder = Recorder(path=self.run.log(0), attributes={"run_id": root.name, "agent": 0})
        self.shelf = Shelf(self.run.checkpoints)

    def record_to(self, rows: int) -> None:
        for row in range(self.recorder.rows()["episodes"], rows):
            self.recorder.add("episodes", **dict.fromkeys(columns("episodes"), row % 100) | {"frames": row})

    def save(self, frames: int) -> None:
        """As Session.save: begin, log, per rank its new segments and its file, manifest, prune, status."""
        self.record_to(ROWS[frames])
        folder = self.run.checkpoints
        draft = checkpoint.begin(folder, frames)
        self.recorder.publish()
        entries, segments = [], []  # type: list[checkpoint.Entry], list[checkpoint.Entry]
        for name, rank in ((checkpoint.rank_file(rank), rank) for rank in range(RANKS)):
            slim, its = self.shelf.put_away(state(frames, rank), name)
            entries.append(checkpoint.write_file(draft, name, slim))
            segments += its
        checkpoint.commit(folder, frames, entries, {"world_size": RANKS}, segments)
        checkpoint.prune(folder, 1, frames)
        self.run.write_status(state="running", frames=frames, checkpoint=frames, attempt=1)


def made(root: Path) -> Callable[[], None]:
    """Make a run; its next checkpoint."""
    writer = Writer(root)
    writer.run.create("frames: 1000\n", {})
    writer.save(100)
    return lambda: writer.save(200)


def outcome(root: Path) -> str:
    """`previous` or `new`; anything else is a loss. Then the next attempt goes on, and must reach the new state."""
    folder, _ = checkpoint.newest_whole(root / "checkpoints")
    frames = checkpoint.frames_of(folder)
    for rank in range(RANKS):
        saved = Shelf(folder.parent).fetch(checkpoint.load_file(folder / checkpoint.rank_file(rank)))
        loaded = dict(checkpoint.flatten(saved))
        expected = dict(checkpoint.flatten(state(frames, rank)))
        assert loaded.keys() == expected.keys()
        assert all(np.array_equal(loaded[place], expected[place]) for place in expected), f"rank {rank} is mixed"
    rows = open_log(root / "logs" / "agent0000.h5").table("episodes")["frames"]
    assert len(rows) in ROWS.values(), f"{len(rows)} rows"
    assert np.array_equal(rows, np.arange(len(rows))), "rows of the log are wrong"
    assert len(rows) >= ROWS[frames], "the log is older than the checkpoint"
    assert json.loads((root / "status.json").read_text())["frames"] in ROWS

    following = Writer(root)
    following.run.open(force_unlock=True)  # the lock is of the parent, which lives
    following.shelf.know(folder)
    following.recorder.rewind({**dict.fromkeys(TABLES, 0), "episodes": ROWS[frames]})
    following.save(200)
    assert [problem for _, problem in verify_run(root) if problem] == []
    assert checkpoint.newest_whole(root / "checkpoints")[0].name == "step_000000200"
    assert not list(root.rglob("*.tmp")), "leftovers"
    kept = {f"rank{rank:04d}-{key:06d}.h5" for rank in range(RANKS) for key in SEGMENTS[200]}
    assert {path.name for path in (root / "checkpoints" / "segments").iterdir()} == kept
    return {100: "previous", 200: "new"}[frames]


class Thing(NamedTuple):
    """What is cut off."""

    made: Callable[[Path], Callable[[], object]]
    """Lays out the previous state; the change to the new one."""
    outcome: Callable[[Path], str]
    """`previous` or `new`: what a crash has left. Raises anything if it is neither, or cannot be gone on from."""


THINGS = {"save": Thing(made, outcome), "regroup": Thing(regrouped.made, regrouped.outcome)}


def in_child(action: Callable[[], object]) -> int:
    """Exit code of a forked child that does this: 0, 74 if the disk had something against it, minus a signal."""
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            action()
            code = 0
        except (OSError, RuntimeError):  # what a session takes for a failed save
            code = 74
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main(base: Path, mode: str, stride: int, thing: Thing) -> dict[str, Any]:
    """Every `stride`-th crash point of a change, and the last one."""
    kept, root = base / "kept", base / "run"
    action = thing.made(root)
    shutil.copytree(root, kept)
    counter = base / "calls"

    def change(k: int) -> None:
        DISK.crash_arm(str(root).encode(), k, mode.encode())
        action()
        calls = DISK.crash_seen()
        DISK.crash_arm(b"", 0, b"kill")
        counter.write_text(str(calls))

    assert in_child(lambda: change(0)) == 0
    calls = int(counter.read_text())
    codes: Counter[int] = Counter()
    ends: Counter[str] = Counter()
    lost = []
    points = sorted({*range(1, calls + 1, stride), calls})
    for k in points:
        shutil.rmtree(root)
        shutil.copytree(kept, root)
        code = in_child(lambda k=k: change(k))
        codes[code] += 1
        try:
            ends[thing.outcome(root)] += 1
        except Exception as error:
            lost.append(f"call {k}: {type(error).__name__}: {error}")
    return {"calls": calls, "points": len(points), "codes": dict(codes), "ends": dict(ends), "lost": lost}


if __name__ == "__main__":
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if sys.argv[4] == "server":
        import served  # only now: torch comes with it

        THINGS["server"] = Thing(served.made, served.outcome)
    print(json.dumps(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), THINGS[sys.argv[4]])))
