"""What surrounds a worker's rollouts in cA3C: exchanges with its server, its log, its part of a checkpoint."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mpi_ltcr.archive import checkpoint
from mpi_ltcr.archive.recorder import Recorder
from mpi_ltcr.assembly_ca3c import Worker
from mpi_ltcr.comm.mailbox import SAVED, Mailbox
from mpi_ltcr.comm.parameter_server import ServerLink
from mpi_ltcr.comm.pulse import pulse
from mpi_ltcr.comm.runtime import StopSignals
from mpi_ltcr.comm.wire import SAVE, STOP, Reply
from mpi_ltcr.interfaces import Episode, Metrics, Rollout, State
from mpi_ltcr.programs.publishing import Publishing


class Workshop:
    """One worker's view of a run.

    Args:
        link: to the server of its own task.
        guests: links to the servers of collaborative teachers.
        checkpoints: of its task.
        publish_s: seconds between republished logs.
    """

    def __init__(
        self,
        *,
        worker: Worker,
        rank: int,
        link: ServerLink,
        guests: list[ServerLink],
        mailbox: Mailbox,
        checkpoints: Path,
        recorder: Recorder,
        signals: StopSignals,
        publish_s: float,
    ) -> None:
        self.worker, self.rank, self.link, self.guests = worker, rank, link, guests
        self.mailbox, self.checkpoints, self.recorder, self.signals = mailbox, checkpoints, recorder, signals
        self.publishing = Publishing(recorder, publish_s, self.event)
        self.frames = 0
        self._earlier_s, self._start = 0.0, time.perf_counter()
        self._mark = time.perf_counter()
        self._pending: tuple[Rollout, list[Episode], list[Metrics], float] | None = None

    @property
    def wall_s(self) -> float:
        """Seconds of training, earlier attempts included."""
        return self._earlier_s + time.perf_counter() - self._start

    def exchanges(self) -> Iterator[int]:
        """Hand out T with the newest weights in place, once a rollout, until the server says stop (lines 1 to 3)."""
        reply = self._take(self.link.exchange(0))
        while not reply.order & STOP:
            pulse.enter("rollout")
            yield self.frames
            reply = self._take(self._push())
            if self.publishing.due:
                self.publishing.publish()
        for guest in self.guests:
            guest.bye()
        self.publishing.publish()

    def record(self, rollout: Rollout, ended: list[Episode], learned: list[Metrics]) -> None:
        """Remember what a rollout was and what was learned from it; it is logged with the exchange that follows."""
        self._pending = rollout, ended, learned, time.perf_counter() - self._mark

    def _push(self) -> Reply:
        assert self._pending is not None
        rollout, ended, learned, seconds = self._pending
        pulse.enter("exchange")
        returns = [episode.value for episode in ended]
        asked = self.signals.received is not None
        reply = self.link.exchange(len(rollout.actions), returns=returns, stop_asked=asked)
        self._log(reply, rollout, ended, learned, seconds)
        return reply

    def _log(
        self, reply: Reply, rollout: Rollout, ended: list[Episode], learned: list[Metrics], seconds: float
    ) -> None:
        clocks = {"frames": reply.frames, "updates": reply.version, "wall_s": self.wall_s}
        for episode in ended:
            row = {"return": episode.value, "length": episode.length, "truncated": episode.truncated}
            row["lives"] = max(1, len(episode.lives))
            self.recorder.add("episodes", **clocks, **row)
        names = {name for metrics in learned for name in metrics}
        means = {name: float(np.mean([m[name] for m in learned if name in m])) for name in names}
        link = self.link
        self.recorder.add(
            "rollouts",
            **clocks,
            **means,
            steps=len(rollout.actions),
            wait_s=link.wait_s,
            work_s=seconds,
            bytes_sent=link.sent,
            bytes_received=link.received,
        )

    def _take(self, reply: Reply) -> Reply:
        """Put the newest weights in place; save, if the server orders it."""
        self.frames = reply.frames
        self.worker.load_values(self.link.values)
        if reply.order & SAVE:
            self._save(reply.label)
        self._mark = time.perf_counter()
        return reply

    def event(self, level: str, text: str) -> None:
        """Write down that something out of the ordinary happened."""
        clocks = {"frames": self.frames, "updates": self.link.version, "wall_s": self.wall_s}
        self.recorder.add("events", **clocks, time=time.time(), level=level, text=text)

    def _save(self, label: int) -> None:
        """Write this worker's file of a checkpoint and tell the server how that went."""
        pulse.enter("archive")
        try:
            self.recorder.publish()
            draft = checkpoint.draft_folder(self.checkpoints, label)
            entry = checkpoint.write_file(draft, checkpoint.rank_file(self.rank), self.state())
        except (OSError, RuntimeError) as error:
            self.event("error", f"checkpoint at {label}: {error}")
            self.mailbox.send(self.link.server, SAVED, ok=False, label=label)
        else:
            self.mailbox.send(self.link.server, SAVED, label=label, size=entry.bytes, sha256=entry.sha256)

    def state(self) -> State:
        """Everything of this worker but the weights, which the server has."""
        return {
            "workshop": {"wall_s": self.wall_s, "log_rows": self.recorder.rows()},
            "agent": self.worker.agent.state(),
            "games": {str(i): game.state() for i, game in enumerate(self.worker.games)},
            "transfers": {str(i): transfer.state() for i, transfer in enumerate(self.worker.transfers)},
        }

    def load_state(self, state: State) -> None:
        """Continue from a checkpoint: the rows that came after it are cut from the log."""
        self._earlier_s = state["workshop"]["wall_s"]
        self.publishing.rewind(state["workshop"]["log_rows"])
        self.worker.agent.load_state(state["agent"])
        for i, game in enumerate(self.worker.games):
            game.load_state(state["games"][str(i)])
        for i, transfer in enumerate(self.worker.transfers):
            transfer.load_state(state["transfers"][str(i)])
