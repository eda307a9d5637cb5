"""A thread on each rank that ends the job when nothing goes on any more, and names the rank that holds it up.

Each rank publishes its pulse every few seconds. A rank without progress for longer than its limit looks at those of the
others, follows who waits for whom (`verdict.judge`), and reports once for the whole job:

    hang/attemptA-rankNNNN.txt    phase, collective, every rank's pulse, the stacks of this process's threads
    stderr, crash/, status.json   "rank 1 holds the job up: ..."; exit code 75

A rank that holds Python's global lock cannot do that for itself; the others then do, and have it show its stack. One
that is only slow is waited for as long as its own pulse goes on. Ranks that wait for each other in different
collectives will do so for ever: they are told of within seconds, exit code 70. A rank whose launcher has died ends as
well, so that nobody is left behind.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from mpi_ltcr.comm.pulse import Pulse, Wait
from mpi_ltcr.comm.verdict import HANG, Seen, Verdict, accuse, blockers, judge, stuck

START_S = 600.0
"""Limit before the first round: imports, environments, replaying the last episode after a resume."""
PUBLISH_S, LOOK_S = 5.0, 3.0
"""Between two published pulses; without progress before the others are looked at."""
STACK_S = 2.0
"""What a rank that cannot speak gets for showing its stack, before the job ends."""
FILE_S = 10.0
"""How long a file system may take before the watchdog goes on without it."""


class Board(Protocol):
    """Where ranks can see each other, apart from MPI."""

    def publish(self, rank: int, content: dict[str, Any]) -> None:
        """Let the others see this rank's pulse."""
        ...

    def read(self) -> dict[int, dict[str, Any]]:
        """The newest pulse of each rank that has published one."""
        ...

    def report(self, rank: int, text: str) -> None:
        """Keep what a rank has to say about a hang."""
        ...

    def reported(self, rank: int) -> bool:
        """Whether that rank has said something in this attempt."""
        ...


class Watchdog:
    """Watches over this process's pulse.

    Args:
        pulse: the main thread's.
        abort: ends the whole job: (text, exit code).
        launched: by an mpirun or srun, whose death is noticed.
    """

    def __init__(
        self, *, pulse: Pulse, rank: int, size: int, abort: Callable[[str, int], object], launched: bool
    ) -> None:
        self.pulse, self.rank, self.size, self.abort = pulse, rank, size, abort
        self.parent = os.getppid() if launched else None
        self.board: Board | None = None
        self.patience_s = START_S
        self.silence_s = 0.0
        self._beats = -1
        self._last = self._published = self._looked = -1e9
        self._sightings: dict[int, _Sighting] = {}
        self._stop = threading.Event()

    def start(self) -> None:
        """Begin to watch, in a thread that never keeps a process from ending."""
        self._last = time.monotonic()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def stop(self) -> None:
        """The work is done."""
        self._stop.set()

    def attach(self, board: Board, patience_s: float) -> None:
        """From now on see the others, and be seen.

        Args:
            patience_s: limit of every phase but the start's, which is `START_S` at least.
        """
        self.patience_s, self.board = patience_s, board
        self._publish()  # now: a rank that hangs in its first seconds is to be found, too

    @property
    def tick_s(self) -> float:
        """Between two looks at the own pulse."""
        return min(1.0, self.patience_s / 10)

    @property
    def limit_s(self) -> float:
        """Of the phase that the main thread is in."""
        return max(START_S, self.patience_s) if self.pulse.phase == "start" else self.patience_s

    def _watch(self) -> None:
        while not self._stop.wait(self.tick_s):
            try:
                self.look(time.monotonic())
            except Exception:  # a watchdog that stumbles must not end a sound job
                traceback.print_exc()

    def look(self, now: float) -> None:
        """One turn of the watch, at this time of a monotonic clock."""
        if self.parent is not None and os.getppid() != self.parent:
            self.abort("the launcher (mpirun, srun) is gone, and nobody would end this process", HANG)
        # The time of a process that was stopped as a whole (SIGSTOP, a closed laptop) is not the main thread's fault.
        passed, self._last = min(now - self._last, 3 * self.tick_s), now
        beats = self.pulse.beats
        self.silence_s = self.silence_s + passed if beats == self._beats else 0.0
        self._beats = beats
        period = min(PUBLISH_S, self.patience_s / 10)
        if now - self._published >= period:
            self._published = now
            self._publish()
        if self.silence_s < min(LOOK_S, self.limit_s / 4):
            return
        if now - self._looked >= period:
            self._looked = now
            self._sight(now)
        verdict = judge(self._me(), self._others(now), self.limit_s)
        if verdict and beats == self.pulse.beats:
            self._report(verdict, now)

    def explain(self, lost: int) -> str:
        """The culprit, for a main thread that has waited in vain for rank `lost`, which may be waiting itself."""
        now = time.monotonic()
        self._sight(now)
        others = self._others(now)
        first = next((other for other in others if other.rank == lost), self._me())
        verdict = accuse(first, blockers(first, [self._me(), *others])) if first.waits else stuck(first)
        within(FILE_S, lambda: self._write(self._evidence(verdict, now)))
        return verdict.text

    def moves(self, rank: int) -> bool:
        """Whether rank `rank`, which has not answered for long, or one that it waits for, has done something within the
        limit: by what it says itself, and by what has been seen of it."""
        now = time.monotonic()
        self._sight(now)
        others = self._others(now)
        chain = [other for other in others if other.rank == rank]
        chain += [other for first in chain for other in blockers(first, others)]
        return any(
            other.silence_s < self.limit_s and time.time() - self._sightings[other.rank].moved < self.limit_s
            for other in chain
        )

    def _me(self) -> Seen:
        return Seen(self.rank, self.pulse.phase, self.silence_s, self.pulse.waits, entered=dict(self.pulse.entered))

    def _others(self, now: float) -> list[Seen]:
        mute_s = 1 + 4 * min(PUBLISH_S, self.patience_s / 10)
        return [sighting.seen(rank, now, time.time() - mute_s) for rank, sighting in self._sightings.items()]

    def _publish(self) -> None:
        if self.board is None:
            return
        board, pulse = self.board, self.pulse
        waits = pulse.waits
        content = {
            "rank": self.rank,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "time": round(time.time(), 3),
            "beats": pulse.beats,
            "phase": pulse.phase,
            "silence_s": round(self.silence_s, 1),
            "collectives": pulse.collectives,
            "waits": None if waits is None else waits._asdict(),
            "entered": [list(place) for place in pulse.entered.items()],
        }
        within(FILE_S, lambda: board.publish(self.rank, content))

    def _sight(self, now: float) -> None:
        """See how far the others are; who has never published is taken to be at its start since now."""
        if self.board is None:
            return
        board, found = self.board, {}
        within(FILE_S, lambda: found.update(board.read()))
        for rank in range(self.size):
            if rank != self.rank:
                content = found.get(rank, {})
                old = self._sightings.get(rank)
                self._sightings[rank] = old.renewed(content, now) if old else _Sighting(content, now, False)

    def _report(self, verdict: Verdict, now: float) -> None:
        """Write down the evidence, let the others write theirs, and end the job."""
        within(FILE_S, lambda: self._write(self._evidence(verdict, now)))
        time.sleep(2 * self.tick_s)
        if verdict.guilty != self.rank and self.board and not self.board.reported(verdict.guilty):
            self._ask_for_stack(verdict.guilty)
        self.abort(verdict.text, verdict.code)

    def _write(self, text: str) -> None:
        if self.board is not None:
            self.board.report(self.rank, text)

    def _evidence(self, verdict: Verdict, now: float) -> str:
        pulse = self.pulse
        lines = [f"{time.strftime('%Y-%m-%d %H:%M:%S')} {verdict.text}", ""]
        lines += [f"{self._me()}, {pulse.collectives} collectives so far"]
        lines += [str(other) for other in self._others(now)]
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        for ident, frame in sys._current_frames().items():
            if names.get(ident, "").startswith("watchdog"):
                continue
            lines += ["", f"Thread {names.get(ident, ident)}:", "".join(traceback.format_stack(frame)).rstrip()]
        return "\n".join(lines) + "\n"

    def _ask_for_stack(self, rank: int) -> None:
        """Let a rank that cannot speak, because it holds Python's lock, show its stack on stderr: SIGUSR2 does it."""
        content = self._sightings[rank].content
        pid = int(content.get("pid", 0))
        with contextlib.suppress(OSError, ValueError, IndexError):
            parent = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
            if content.get("host") == socket.gethostname() and parent == os.getppid():  # surely still that process
                print(f"mpi-ltcr: stack of rank {rank}:", file=sys.stderr, flush=True)
                os.kill(pid, signal.SIGUSR2)
                time.sleep(STACK_S)


class _Sighting(NamedTuple):
    """What was last read of a rank, and since when it has been so by this process's own clock."""

    content: dict[str, Any]
    since: float
    steady: bool

    @property
    def moved(self) -> float:
        """When it last made progress, by its own clock."""
        return float(self.content.get("time", 0)) - float(self.content.get("silence_s", 0))

    def renewed(self, content: dict[str, Any], now: float) -> _Sighting:
        if content.get("beats") != self.content.get("beats"):
            return _Sighting(content, now, False)
        return self._replace(steady=self.steady or content.get("time") != self.content.get("time"))

    def seen(self, rank: int, now: float, mute_before: float) -> Seen:
        """As of `now`. What a rank waited for when it last spoke says nothing if it has been mute since then."""
        content = self.content
        waits = content.get("waits") if content.get("time", 0) >= mute_before else None
        return Seen(
            rank=rank,
            phase=str(content.get("phase", "start")),
            silence_s=now - self.since + float(content.get("silence_s", 0)),
            waits=Wait(str(waits["what"]), tuple(waits["ranks"]), tuple(waits["place"])) if waits else None,
            steady=self.steady,
            entered=dict(content.get("entered", ())),
        )


def within(seconds: float, action: Callable[[], object]) -> bool:
    """Let `action` run in a thread of its own for at most so long; whether it succeeded. A dead file system hangs
    whoever touches it, and must not hang the watchdog."""
    done: list[bool] = []

    def run() -> None:
        with contextlib.suppress(Exception):
            action()
            done.append(True)

    thread = threading.Thread(target=run, name="watchdog's hand", daemon=True)
    thread.start()
    thread.join(seconds)
    return bool(done)
