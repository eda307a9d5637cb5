"""The last save of a cA3C server, to be cut off by `enumerate_crashes.py`: its own code, whose workers are played.

It goes through the same functions as a session's save, but for the last one of a run: that is gathered under the T at
which it was ordered, and its draft gets the name of the T at which the last worker was done.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from mpi_ltcr.archive import checkpoint
from mpi_ltcr.archive.reader import open_log
from mpi_ltcr.archive.recorder import Recorder
from mpi_ltcr.archive.rundir import RunDirectory
from mpi_ltcr.archive.verification import verify_run
from mpi_ltcr.assembly_ca3c import SERVER_FILE
from mpi_ltcr.comm.mailbox import NOTICE, SAVED
from mpi_ltcr.comm.wire import Push
from mpi_ltcr.programs.serving import Serving

TASK, WORKERS = "task", (0, 1)
ORDERED = {100: 100, 200: 190}
"""T of a checkpoint -> T at which it was ordered; the second one is the last of the run."""


def numbers(frames: int, who: int) -> dict[str, Any]:
    """What a worker, or the store, saves: it belongs to this checkpoint alone."""
    return {"values": np.random.default_rng([frames, who]).normal(size=3000).astype(np.float32)}


class Server:
    """A real `Serving` around a server that has counted up to T and workers that have written their files."""

    def __init__(self, root: Path) -> None:
        self.run = RunDirectory(root)
        self.server = SimpleNamespace(
            **{"limit": 200, "workers": list(WORKERS), "frames": 0, "version": 0, "closing": False, "done": True},
            **{"workers_left": False, "stop_asked": False, "poll": lambda: 0, "end_save": lambda: None},
            state=lambda: {"frames": self.server.frames, "version": self.server.version},
        )
        self.notices: list[tuple[int, np.void]] = []
        log = self.run.logs / "server0000.h5"
        self.serving = Serving(
            **{"name": TASK, "server": self.server, "others": [], "run": self.run, "publish_s": 1e9, "keep": 1},
            store=SimpleNamespace(state=lambda: numbers(self.server.frames, len(WORKERS))),
            mailbox=SimpleNamespace(received=self.received),
            recorder=Recorder(path=log, attributes={"run_id": root.name, "agent": 0}),
            signals=SimpleNamespace(received=None),
            facts={"world_size": len(WORKERS)},
            first=True,
        )

    def received(self) -> list[tuple[int, np.void]]:
        notices, self.notices = self.notices, []
        return notices

    def save(self, frames: int) -> None:
        """An order, a file and a notice of each worker, and then the server's next step. Raises what went wrong."""
        server, label = self.server, ORDERED[frames]
        server.closing = label != frames
        self.serving.problem = ""
        server.frames = label
        server.on_save(label, server.closing)
        server.frames = server.version = frames
        server.on_push(Push(WORKERS[0], 0, 0, 5, 100), [1.0])
        for worker in WORKERS:
            entry = checkpoint.write_file(
                checkpoint.draft_folder(self.serving.checkpoints, label),
                checkpoint.rank_file(worker),
                numbers(frames, worker),
            )
            notice = np.zeros(1, NOTICE)
            notice[0] = (SAVED, True, label, entry.bytes, entry.sha256.encode())
            self.notices.append((worker, notice[0]))
        self.serving.step()
        if self.serving.problem:
            raise OSError(self.serving.problem)


def made(root: Path) -> Callable[[], None]:
    """Make a run; its next checkpoint, which is the last."""
    server = Server(root)
    server.run.create("frames: 1000\n", {})
    server.save(100)
    return lambda: server.save(200)


def outcome(root: Path) -> str:
    """`previous` or `new`; then the next attempt goes on from it, and must reach the new state."""
    checkpoints = root / "checkpoints" / TASK
    folder, _ = checkpoint.newest_whole(checkpoints)
    frames = checkpoint.frames_of(folder)
    for worker in WORKERS:
        loaded = checkpoint.load_file(folder / checkpoint.rank_file(worker))
        assert np.array_equal(loaded["values"], numbers(frames, worker)["values"]), f"worker {worker} is mixed"
    state = checkpoint.load_file(folder / SERVER_FILE)
    assert np.array_equal(state["store"]["values"], numbers(frames, len(WORKERS))["values"]), "the store is mixed"
    rows = len(open_log(root / "logs" / "server0000.h5").table("pushes")["frames"])
    assert rows >= state["serving"]["log_rows"]["pushes"], "the log is older than the checkpoint"

    following = Server(root)
    following.run.open(force_unlock=True)  # the lock is of the parent, which lives
    following.serving.store.load_state = following.server.load_state = lambda state: None
    following.serving.load_state(state)
    following.save(200)
    assert [problem for _, problem in verify_run(root) if problem] == []
    assert [path.name for path in checkpoints.glob("*step_*")] == ["step_000000200"], "leftovers"
    assert not list(root.rglob("*.tmp")), "leftovers"
    return {100: "previous", 200: "new"}[frames]
