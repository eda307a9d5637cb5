"""What surrounds the rounds of a program: clocks, log, evaluation, probes, checkpoints, stopping in order.

Everything here happens at the end of a round, at frames that are the same on all ranks, so its collectives match.
"""

from __future__ import annotations

import contextlib
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mpi_ltcr.archive import checkpoint
from mpi_ltcr.archive.checkpoint import TEAM, Entry
from mpi_ltcr.archive.recorder import Recorder
from mpi_ltcr.archive.rundir import RunDirectory
from mpi_ltcr.archive.segments import Shelf
from mpi_ltcr.assembly import Member
from mpi_ltcr.comm import runtime
from mpi_ltcr.comm.collectives import Service
from mpi_ltcr.comm.pulse import pulse
from mpi_ltcr.comm.runtime import JobError, StopSignals
from mpi_ltcr.config import Config
from mpi_ltcr.interfaces import Episode, Metrics, State
from mpi_ltcr.programs.continuity import kept
from mpi_ltcr.programs.job import tolerated
from mpi_ltcr.programs.progress import Progress
from mpi_ltcr.programs.publishing import Publishing
from mpi_ltcr.programs.saving import Written, save_together
from mpi_ltcr.seeds import SeedTree
from mpi_ltcr.transfer.public_memory import kl_rows

PHASES = ("explore", "communicate", "digest", "revisit", "evaluate", "archive")
AGREE_EVERY = 10
"""Rounds between two agreements on whether to stop: a byte of each rank, not in the exchange's own messages, because
who learns alone has none."""
MEANS = "td_loss", "policy_loss", "entropy", "revisit_grad_norm"
"""What the log holds of a round's Revisits as their mean, as far as the agent tells it."""
MEMORY_FILE = "memory.h5"
"""M0 in a checkpoint."""
SAVE_ATTEMPTS = 3
"""Checkpoints in a row that may fail before the run stops."""


class Session:
    """One rank's view of a run.

    Args:
        service: collectives of its own, apart from the transfer's.
        config: the run's; `member` is what this rank trains.
        signals: what this process was asked to do.
    """

    def __init__(
        self,
        *,
        config: Config,
        member: Member,
        service: Service,
        run: RunDirectory,
        recorder: Recorder,
        signals: StopSignals,
        attempt: int,
    ) -> None:
        self.config, self.member, self.service = config, member, service
        self.run, self.recorder, self.signals, self.attempt = run, recorder, signals, attempt
        self.shelf = Shelf(run.checkpoints)
        self.seeds = SeedTree(config.seed)
        self.frames = self.updates = self.evaluations = 0
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self.saved = -1
        self.failed_saves = 0
        self._earlier_s, self._start = 0.0, time.perf_counter()
        self._perf_at = (0, 0.0)
        self.publishing = Publishing(recorder, config.log.publish_s, self.event)
        self.progress = Progress(config.frames) if service.rank == 0 else None

    # The rounds

    @property
    def wall_s(self) -> float:
        """Seconds of training, earlier attempts included."""
        return self._earlier_s + time.perf_counter() - self._start

    def rounds(self) -> Iterator[Session]:
        """Collective. Hand itself out once a round; between rounds, do what is due at this frame.

        Raises:
            JobError: the job was asked to stop (after a checkpoint), or checkpoints cannot be written.
        """
        config = self.config
        while self.frames < config.frames:
            yield self
            self.frames += config.round_frames
            with self.phase("evaluate"):
                self._evaluate()
                self._probe()
            if self.frames % config.checkpoint.every == 0 and self.frames < config.frames:
                self.save()
            self._publish_if_due()
            if self.frames // config.round_frames % AGREE_EVERY == 0:
                self._stop_if_asked()
        self._save_last()
        self._finish("completed", runtime.COMPLETED)

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Account the time of a phase, and let error messages name it."""
        start = time.perf_counter()
        pulse.enter(name)
        yield
        self.seconds[name] += time.perf_counter() - start

    def record(
        self, episodes: list[Episode], transfer: Metrics, digested: list[Metrics], revisited: list[Metrics]
    ) -> None:
        """Log what one round of the four phases did."""
        frames = self.frames + self.config.round_frames
        revisited = [m for m in revisited if m]
        self.updates += len(digested) + len(revisited)
        for e in episodes:
            self._row("episodes", frames, **_columns_of(e), truncated=e.truncated)
            self._log_parts(e, frames, evaluation=False)
        if digested or revisited:
            told = revisited[-1] if revisited else {}
            means = {k: sum(m[k] for m in revisited) / len(revisited) for k in MEANS if k in told}
            last = {k: told[k] for k in ("q_mean", "clipped_fraction") if k in told}
            first = digested[0] if digested else {}
            self._row("train", frames, **means, **last, **first, epsilon=self.member.agent.epsilon)
        if transfer:
            self._row("exchange", frames, **transfer)

    def _row(self, table: str, frames: int, **values: object) -> None:
        self.recorder.add(table, frames=frames, updates=self.updates, wall_s=self.wall_s, **values)

    def _log_parts(self, episode: Episode, frames: int, *, evaluation: bool) -> None:
        if episode.battle:
            self._row("battles", frames, **episode.battle._asdict(), evaluation=evaluation)
        for number, life in enumerate(episode.lives):
            content = {"return": life.value, "length": life.length, "life": number, "evaluation": evaluation}
            self._row("lives", frames, **content)

    # Evaluation and probes

    def _evaluate(self) -> None:
        if self.frames % self.config.eval.every:
            return
        agent, number = self.member.role.agent, self.evaluations
        policy_rng = self.seeds.generator(agent, "eval_policy", number)
        values = []
        for k in range(self.config.eval.episodes):
            e = self.member.evaluate(self.member.agent.player(policy_rng), number, k)
            self._row("eval", self.frames, **_columns_of(e), episode=k)
            self._log_parts(e, self.frames, evaluation=True)
            values.append(e.value)
        self.evaluations += 1
        if self.progress:
            self.progress.evaluated(float(np.mean(values)))

    def _probe(self) -> None:
        """Collective. Trace the teammates' KL on the fixed set (Fig. 2), dump whole distributions (Fig. 5)."""
        log, member = self.config.log, self.member
        if log.probe_size and self.frames % log.probe_every == 0:
            answers = self.service.allgather(member.agent.answer(member.probe))
            own = answers[member.role.agent]
            others = [kl_rows(z, own) for i, z in enumerate(answers) if i != member.role.agent]
            spread = float(np.std(member.agent.values(member.probe)))
            kl = float(np.mean(others)) if others else float("nan")
            self._row("probe", self.frames, kl_teammates=kl, value_spread=spread)
        if self.frames in log.distributions_at:
            self._dump_distributions()

    def _dump_distributions(self) -> None:
        support = self.member.agent.support.cpu().numpy()
        masses = self.member.agent.distributions(self.member.probe_states)
        if not self.recorder.holds("probe_states"):
            for (state, feature), value in np.ndenumerate(self.member.probe_states.reshape(len(masses), -1)):
                self._row("probe_states", self.frames, state=state, feature=feature, value=value)
        for (state, action, atom), mass in np.ndenumerate(masses):
            place = {"state": state, "action": action, "atom": atom + 1, "z": support[atom]}
            self._row("distributions", self.frames, **place, probability=mass)

    # Log and status

    def event(self, level: str, text: str) -> None:
        """Write down that something out of the ordinary happened."""
        self._row("events", self.frames, time=time.time(), level=level, text=text)

    def _publish_if_due(self) -> None:
        if self.progress:
            self.progress.show(self.frames)
        if self.publishing.due:
            self._publish()
            if self.service.rank == 0:
                with tolerated("status", self.event):
                    self.run.write_status(state="running", frames=self.frames, attempt=self.attempt)

    def _publish(self) -> None:
        self._perf_row()
        with self.phase("archive"):
            self.publishing.publish()

    def _perf_row(self) -> None:
        frames, wall = self._perf_at
        if self.frames > frames:
            rate = (self.frames - frames) / max(1e-9, self.wall_s - wall)
            seconds = {f"{name}_s": value for name, value in self.seconds.items()}
            rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
            self._row("perf", self.frames, frames_per_s=rate, rss_bytes=rss, **seconds)
            self.seconds = dict.fromkeys(PHASES, 0.0)
        self._perf_at = (self.frames, self.wall_s)

    # Checkpoints

    def save(self) -> None:
        """Collective. Write a checkpoint of the whole team and the logs that belong to it.

        Either all ranks' files are whole and the checkpoint exists, or it does not; training then goes on with the
        older one, and stops when that happens three times in a row.
        """
        with self.phase("archive"):
            problem = save_together(self.service, self.run.checkpoints, self.frames, self._write_files, self._commit)
        if not problem:
            self.saved, self.failed_saves = self.frames, 0
            return
        self.failed_saves += 1
        self.event("error", f"checkpoint at frame {self.frames} was not written: {problem}")
        if self.failed_saves >= SAVE_ATTEMPTS:
            told = f"{SAVE_ATTEMPTS} checkpoints in a row failed, mend {self.run.root}: {problem}"
            if self.service.rank == 0:
                with tolerated("status", self.event):
                    self.run.write_status(state="failed", exit_code=runtime.IO, error=told)
            raise JobError(told, runtime.IO)

    def _write_files(self, draft: Path) -> Iterator[Written]:
        self.recorder.publish()
        parts = {checkpoint.rank_file(self.member.role.agent): self.state}
        if self.member.memory is not None and self.member.role.keeps_memory:
            parts[MEMORY_FILE] = self.member.memory.state
        for name, state in parts.items():
            slim, segments = self.shelf.put_away(state(), name)
            yield checkpoint.write_file(draft, name, slim), segments

    def _commit(self, files: list[Entry], segments: list[Entry]) -> None:
        checkpoint.commit(self.run.checkpoints, self.frames, files, {**self.facts(), TEAM: self.shelf.team}, segments)
        checkpoint.prune(self.run.checkpoints, self.config.checkpoint.keep, self.frames)
        self.run.write_status(state="running", frames=self.frames, checkpoint=self.frames, attempt=self.attempt)

    def facts(self) -> dict[str, object]:
        """What a manifest tells of this team, besides its files."""
        return {"world_size": self.service.size, "updates": self.updates, "config": kept(self.config)}

    def state(self) -> State:
        """Everything of this rank but M0."""
        member = self.member
        clocks = {"frames": self.frames, "updates": self.updates, "evaluations": self.evaluations}
        return {
            "session": {**clocks, "wall_s": self.wall_s, "log_rows": self.recorder.rows()},
            "agent": member.agent.state(),
            "loop": member.loop.state(),
            "transfer": member.transfer.state(),
        }

    def restore(self, folder: Path) -> None:
        """Continue from a verified checkpoint: the rows that came after it are cut from the log."""
        state = checkpoint.load_file(folder / checkpoint.rank_file(self.member.role.agent))
        self.take(state, folder, self.recorder.path)
        self.event("info", f"resumed from {folder.name}, attempt {self.attempt}")

    def take(self, state: State, folder: Path, log: Path) -> None:
        """Continue from a state whose segments and M0 are of this checkpoint, and from the log that belongs to it."""
        self.shelf.know(folder)
        state = self.shelf.fetch(state, checkpoint.rank_file(self.member.role.agent))
        session = state["session"]
        self.frames = self.saved = session["frames"]
        self.updates, self.evaluations, self._earlier_s = (session[k] for k in ("updates", "evaluations", "wall_s"))
        self._perf_at = (self.frames, self.wall_s)
        self.publishing.rewind(session["log_rows"], log)
        self.member.agent.load_state(state["agent"])
        self.member.loop.load_state(state["loop"])
        self.member.transfer.load_state(state["transfer"])
        if self.member.memory is not None:
            memory = checkpoint.load_file(folder / MEMORY_FILE)
            self.member.memory.load_state(self.shelf.fetch(memory, MEMORY_FILE))
        if self.progress:
            self.progress.resumed(self.frames)

    # The end

    def _save_last(self) -> None:
        """Collective. Make sure that this very frame is saved before the job ends; raises JobError if it cannot be."""
        while self.saved != self.frames:
            self.save()

    def _stop_if_asked(self) -> None:
        """Collective. Leave together if any rank was asked to."""
        if not self.service.any(self.signals.received is not None):
            return
        self._save_last()
        self.event("info", f"stopped on {self.signals.received or 'a signal to another rank'}")
        self._finish("preempted", runtime.PREEMPTED)
        told = f"stopped at frame {self.frames} of {self.config.frames}, saved; go on: mpi-ltcr resume {self.run.root}"
        raise JobError(told, runtime.PREEMPTED)

    def _finish(self, state: str, code: int) -> None:
        """Collective. Publish, and write the record that says how it ended."""
        self._publish()
        self.service.any(False)  # nobody calls it finished before all logs are out
        if self.service.rank == 0:
            with tolerated("checkpoints", self.event):  # an attempt that was killed after its last may have left more
                checkpoint.prune(self.run.checkpoints, self.config.checkpoint.keep, self.frames)
            self.run.write_status(state=state, frames=self.frames, attempt=self.attempt, exit_code=code)
            self.run.unlock()
        if self.progress:
            self.progress.done(self.frames, state)


def _columns_of(episode: Episode) -> dict[str, object]:
    """What the tables of episodes have in common."""
    return {"return": episode.value, "length": episode.length, "lives": max(1, len(episode.lives))}
