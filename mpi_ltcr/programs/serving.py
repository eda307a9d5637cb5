"""What surrounds a parameter server in cA3C: the task's log, its checkpoints, stopping in order."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

import numpy as np

from mpi_ltcr.archive import checkpoint
from mpi_ltcr.archive.recorder import Recorder
from mpi_ltcr.archive.rundir import RunDirectory
from mpi_ltcr.assembly_ca3c import SERVER_FILE
from mpi_ltcr.comm.mailbox import SAVED, STOP, Mailbox
from mpi_ltcr.comm.parameter_server import ParameterServer
from mpi_ltcr.comm.pulse import Wait, pulse
from mpi_ltcr.comm.runtime import StopSignals, guard
from mpi_ltcr.comm.wire import Push
from mpi_ltcr.interfaces import State
from mpi_ltcr.programs.job import tolerated
from mpi_ltcr.programs.progress import Progress
from mpi_ltcr.programs.publishing import Publishing
from mpi_ltcr.steppers import ParameterStore

LAST_EPISODES = 100
"""The papers' number is the mean return of the last hundred training episodes."""
IDLE_S = 3e-4
SAVE_ATTEMPTS = 3
"""Checkpoints in a row that may fail before the run stops."""


class Serving:
    """One task's server until its workers are done. Call `step` again and again until it returns False.

    Args:
        others: ranks of the other tasks' servers, which learn of a stop.
        facts: what the manifests of its checkpoints tell of the run.
        first: whether it is the first task's: its T is the run's in status.json.
    """

    def __init__(
        self,
        *,
        name: str,
        server: ParameterServer,
        store: ParameterStore,
        mailbox: Mailbox,
        others: list[int],
        run: RunDirectory,
        recorder: Recorder,
        signals: StopSignals,
        publish_s: float,
        keep: int,
        facts: dict[str, Any],
        first: bool,
    ) -> None:
        self.name, self.server, self.store, self.mailbox, self.others = name, server, store, mailbox, others
        self.run, self.recorder, self.signals = run, recorder, signals
        self.publishing = Publishing(recorder, publish_s, self.event)
        self.keep, self.facts, self.first = keep, facts, first
        self.checkpoints = run.task_checkpoints(name)
        self.returns: deque[float] = deque(maxlen=LAST_EPISODES)
        self.progress = Progress(server.limit, f"last {LAST_EPISODES} episodes", name if others else "")
        self._earlier_s, self._start = 0.0, time.perf_counter()
        self._entries: dict[str, checkpoint.Entry] = {}
        self.idle = False
        self._label: int | None = None
        self._last_saved = False
        self._failed_saves = 0
        self._waits = Wait(f"requests of the workers on {name}", tuple(server.workers))
        self.problem = ""
        """Why the last checkpoint could not be written, if so."""
        self.server.on_push = self._log
        self.server.on_save = self._begin_save

    @property
    def wall_s(self) -> float:
        """Seconds of training, earlier attempts included."""
        return self._earlier_s + time.perf_counter() - self._start

    def step(self) -> bool:
        """Serve who is waiting, gather checkpoints, publish; whether there is more to do."""
        phase, guard.phase = guard.phase, "serve"
        served = self.server.poll()
        self._heed_stop()
        for rank, notice in self.mailbox.received():
            if notice["kind"] == STOP:
                self.server.stop_asked = True
            elif notice["kind"] == SAVED and int(notice["label"]) == self._label:
                self._gather(rank, notice)
        self._commit_if_whole()
        self._publish_if_due()
        self.idle = not served
        guard.phase = phase  # of the worker on this rank, if there is one
        return not (self.server.done and self._last_saved)

    def rest(self) -> None:
        """Give the core back for a moment, if the last step found nothing to do."""
        if self.idle:
            pulse.waits = self._waits
            time.sleep(IDLE_S)

    def finish(self) -> None:
        """After the last step: the last rows go out."""
        self._publish()
        self.progress.done(self.server.frames, "stopped" if self.server.stop_asked else "completed")

    # Log

    def _log(self, push: Push, returns: list[float]) -> None:
        clocks = {"frames": self.server.frames, "updates": self.server.version, "wall_s": self.wall_s}
        self.recorder.add("pushes", **clocks, **push._asdict())
        for value in returns:
            self.recorder.add("returns", **clocks, worker=push.worker, **{"return": value})
        self.returns.extend(returns)
        if returns:
            self.progress.evaluated(float(np.mean(self.returns)))

    def _publish_if_due(self) -> None:
        self.progress.show(self.server.frames)
        if self.publishing.due:
            self._publish()
            if self.first:
                with tolerated("status", self.event):
                    self.run.write_status(state="running", frames=self.server.frames)

    def _publish(self) -> None:
        pulse.beat()
        self.publishing.publish()

    def event(self, level: str, text: str) -> None:
        """Write down that something out of the ordinary happened."""
        clocks = {"frames": self.server.frames, "updates": self.server.version, "wall_s": self.wall_s}
        self.recorder.add("events", **clocks, time=time.time(), level=level, text=text)

    # Stopping and saving

    def _heed_stop(self) -> None:
        """A signal to this process, or to a worker of this task, stops the other tasks as well."""
        if self.signals.received is not None or self.server.stop_asked:
            for rank in self.others:
                self.mailbox.send(rank, STOP)
            self.others = []
            self.server.stop_asked = True

    def _begin_save(self, label: int, last: bool) -> None:
        """The draft must stand before a worker learns of it. The last one waits until all gradients are applied."""
        self._label, self._entries = label, {}
        try:
            checkpoint.begin(self.checkpoints, label)
        except OSError as error:
            self._give_up(str(error))
            return
        if not last:
            self._write_own_file()

    def _write_own_file(self) -> None:
        assert self._label is not None
        pulse.beat()
        try:
            self.recorder.publish()
            draft = checkpoint.draft_folder(self.checkpoints, self._label)
            self._entries[SERVER_FILE] = checkpoint.write_file(draft, SERVER_FILE, self.state())
        except (OSError, RuntimeError) as error:
            self._give_up(str(error))

    def _gather(self, rank: int, notice: np.void) -> None:
        """A worker has written its file, or could not."""
        name = checkpoint.rank_file(rank)
        if not notice["ok"]:
            self._give_up(f"rank {rank} could not write {name}")
            return
        self._entries[name] = checkpoint.Entry(name, notice["sha256"].decode(), int(notice["bytes"]))

    def _commit_if_whole(self) -> None:
        """Once every file is there: manifest, rename, forget the oldest. The last one is named after the last T."""
        server = self.server
        if self._label is None:
            return
        if server.closing and not server.workers_left and SERVER_FILE not in self._entries:
            self._write_own_file()
        if self._label is None or len(self._entries) <= len(server.workers):
            return
        try:
            self._commit(self._label, server.frames if server.closing else self._label)
        except OSError as error:
            self._give_up(str(error))
            return
        self._failed_saves = 0
        self._end_save()

    def _commit(self, label: int, frames: int) -> None:
        pulse.beat()
        if frames != label:
            draft = checkpoint.draft_folder(self.checkpoints, label)
            draft.rename(checkpoint.begin(self.checkpoints, frames, more=False))
        server = self.server
        facts = {**self.facts, "ranks": server.workers, "updates": server.version, "task": self.name}
        checkpoint.commit(self.checkpoints, frames, list(self._entries.values()), facts)
        checkpoint.prune(self.checkpoints, self.keep, frames)
        if self.first:
            self.run.write_status(state="running", frames=server.frames, checkpoint=frames)

    def _give_up(self, problem: str) -> None:
        self.problem = problem if self.server.closing else ""
        self._failed_saves += 1
        self.server.stop_asked |= self._failed_saves >= SAVE_ATTEMPTS
        self.event("error", f"checkpoint at frame {self._label} was not written: {problem}")
        self._end_save()

    def _end_save(self) -> None:
        self._last_saved = self.server.closing
        self._label = None
        self.server.end_save()

    def state(self) -> State:
        """The task's authority: parameters, Adams, T."""
        return {
            "store": self.store.state(),
            "server": self.server.state(),
            "serving": {
                "wall_s": self.wall_s,
                "log_rows": self.recorder.rows(),
                "returns": np.array(self.returns, np.float64),
            },
        }

    def load_state(self, state: State) -> None:
        """Continue from a checkpoint: the rows that came after it are cut from the log."""
        self.store.load_state(state["store"])
        self.server.load_state(state["server"])
        serving = state["serving"]
        self._earlier_s = serving["wall_s"]
        self.publishing.rewind(serving["log_rows"])
        self.returns.extend(serving["returns"].tolist())
        self.progress.resumed(self.server.frames)
