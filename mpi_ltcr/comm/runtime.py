"""One process of the job: its communicator, its end, and the one place that names COMM_WORLD.

Measured with both MPIs: a plain Python exception on one rank leaves the others in their collective for ever, and so do
an early `sys.exit` and an exception in a thread. So `guard` takes over every way in which a process can end, and
`watchdog` sees to it that it ends.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import os
import re
import signal
import socket
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from mpi4py import MPI

from mpi_ltcr.comm import launch
from mpi_ltcr.comm.node import cores_of_node, ranks_of_node
from mpi_ltcr.comm.pulse import pulse
from mpi_ltcr.comm.waiting import waiting
from mpi_ltcr.comm.watchdog import FILE_S, START_S, Watchdog, within
from mpi_ltcr.interfaces import NonFiniteError

COMPLETED, BAD_INPUT, BAD_CHECKPOINT, INTERNAL, IO, HANG, ENVIRONMENT, PREEMPTED = 0, 2, 65, 70, 74, 75, 77, 85
HURRIED = 128 + signal.SIGINT  # as shells have it
"""Exit codes; `status.json` is the authority, since MPICH's mpirun may return 0 for a rank killed by a signal."""


class JobError(Exception):
    """An end that every rank reaches alike: rank 0 prints the one line, all leave in order with `code`."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class LostRankError(RuntimeError):
    """Rank `rank` has not answered for longer than `runtime.patience_s`, and makes no progress either."""

    def __init__(self, message: str, rank: int) -> None:
        super().__init__(message)
        self.rank = rank


class Guard:
    """The watch over this process's end.

    `on_failure(text, code)` is called before an abnormal one; False means that another rank tells of it already.
    `on_exit()` is the last thing that happens then: whatever it lets go of, nothing of this process uses any more.
    """

    def __init__(self) -> None:
        self.on_failure: Callable[[str, int], bool] = _rank0_first
        self.on_exit: Callable[[], object] = lambda: None
        self.finished = False
        self._lock = threading.Lock()

    @property
    def phase(self) -> str:
        """What the main thread is doing, in a word."""
        return pulse.phase

    @phase.setter
    def phase(self, name: str) -> None:
        """Say so; no sign of progress in itself."""
        pulse.phase = name

    def install(self) -> None:
        """Take over uncaught exceptions of the main thread, other threads and destructors, and early exits."""
        faulthandler.enable()
        if hasattr(faulthandler, "register"):  # the stack of one rank: kill -USR2 PID
            faulthandler.register(signal.SIGUSR2, chain=False)
        sys.excepthook = self._uncaught
        threading.excepthook = lambda args: self._uncaught(args.exc_type, args.exc_value, args.exc_traceback)
        sys.unraisablehook = lambda args: self._uncaught(args.exc_type, args.exc_value, args.exc_traceback)
        atexit.register(self._early_exit)

    def _uncaught(self, kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
        if self.finished:  # the work is done and written down: whatever a library drops now is only told
            traceback.print_exception(kind, error, trace)
            return
        text = "".join(traceback.format_exception(kind, error, trace))
        known = isinstance(error, (NonFiniteError, OSError))
        code = IO if isinstance(error, OSError) else HANG if isinstance(error, LostRankError) else INTERNAL
        if isinstance(error, LostRankError):
            text += watchdog.explain(error.rank)
        self.abort(f"{text}{_advice(error) if not known else ''}", code)

    def _early_exit(self) -> None:
        if not self.finished and MPI.Is_initialized() and not MPI.Is_finalized() and MPI.COMM_WORLD.size > 1:
            self.abort("left early (sys.exit?) while other ranks wait for it", INTERNAL)

    def abort(self, text: str, code: int) -> None:
        """End the whole job now: say why, let `on_failure` write it down, then leave without waiting for anybody.

        ``os._exit`` makes either launcher kill the other ranks (1.5 s at most) and needs no MPI call, so it works
        from any thread and in any state.
        """
        if not self._lock.acquire(blocking=False):  # another thread is at it already
            time.sleep(60)
        head = f"mpi-ltcr: rank {launch.rank()} of {launch.size()} on {socket.gethostname()}, phase {self.phase}:"
        text = f"{head} the job ends here\n{text.rstrip()}"
        answers: list[bool] = []
        within(FILE_S, lambda: answers.append(self.on_failure(text, code)))
        if answers == [False]:
            time.sleep(5)  # let the other rank speak out; the launcher ends us meanwhile
        with contextlib.suppress(OSError, ValueError):  # a launcher that has died has closed our pipes
            sys.stderr.write(f"{text}\n")  # one write: the launcher puts other ranks' lines between two
            sys.stderr.flush()
            sys.stdout.flush()
        within(FILE_S, self.on_exit)
        os._exit(code)


def _rank0_first(text: str, code: int) -> bool:
    """Until there is a run directory: if all ranks fail alike, rank 0 speaks and the launcher ends the others."""
    time.sleep(0 if launch.rank() == 0 else 2)
    return True


def _advice(error: BaseException | None) -> str:
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "\nOut of memory: lower agent.batch or agent.replay_capacity, or start fewer ranks on this node"
    return ""


guard = Guard()
watchdog = Watchdog(
    pulse=pulse, rank=launch.rank(), size=launch.size(), abort=guard.abort, launched=launch.by_launcher()
)


LOOK_AGAIN = 0.01
"""Share of the patience after which a rank that is slow to answer is looked at again."""


def bear_with(rank: int, what: str, patience_s: float) -> float:
    """Seconds for which to wait on for a rank that has not answered for `patience_s`, but makes progress.

    Raises:
        LostRankError: it makes none; `what` says what it did not do.
    """
    if not watchdog.moves(rank):
        raise LostRankError(f"rank {rank} {what} for {patience_s:.0f} s (runtime.patience_s)", rank)
    return LOOK_AGAIN * patience_s


def start() -> MPI.Intracomm:
    """Initialise MPI and return the communicator of the whole job.

    Raises:
        JobError: the launcher started several processes but MPI knows of one (each would believe to be rank 0 of 1
            and write the same run directory).
    """
    guard.install()
    watchdog.start()
    asked = launch.size()
    foreign = launch.by_open_mpi() and "MPICH" in library()  # MPICH would end the process by itself, without advice
    if not foreign:
        _keep_addresses_short()
        with warnings.catch_warnings(), _or_die(START_S):
            warnings.simplefilter("ignore", RuntimeWarning)  # mpi4py's, of a suspicious environment: we say more
            MPI.Init_thread(MPI.THREAD_MULTIPLE)
    if asked > 1 and (foreign or MPI.COMM_WORLD.size == 1):
        own = Path(sys.prefix) / "bin" / "mpirun"
        raise JobError(
            f"the launcher started {asked} processes, but each sees itself alone: mpi4py is bound to {library()}. "
            f"Use that library's own mpirun{f' ({own})' if own.exists() else ''}, or srun --mpi=pmi2 for MPICH",
            ENVIRONMENT,
        )
    _take_names_away(MPI.COMM_WORLD)
    keep_heap()
    waiting.share(*cores_of_node(MPI.COMM_WORLD))
    return MPI.COMM_WORLD


@contextlib.contextmanager
def _or_die(seconds: float) -> Iterator[None]:
    """What takes longer ends this process with its stack on stderr: MPI's start and end hold Python's lock, so that
    the watchdog's thread cannot run meanwhile."""
    faulthandler.dump_traceback_later(seconds, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def _take_names_away(comm: MPI.Intracomm) -> None:
    """Collective. Once all ranks of a node have its shared memory, nobody needs the names in /dev/shm any more: without
    them the memory goes with the last rank, however that ends. (Killed, both MPIs leave 2 MB and more for each job.)"""
    comm.Barrier()
    maps = Path("/proc/self/maps")
    if maps.is_file():
        for path in re.findall(r"/dev/shm/(?:mpich_shm_|sm_segment\.)\S+$", maps.read_text(), re.MULTILINE):
            with contextlib.suppress(OSError):  # another rank was faster
                os.unlink(path)


KEPT_BYTES = 4 << 20
"""More than any buffer of HDF5, less than what a log in memory grows to, which is better off outside of the heap."""


def keep_heap() -> None:
    """Let glibc keep the end of the heap, which HDF5's buffers come from and go to at every write.

    Whenever it is given back, UCX makes a note that nobody reads where ranks share a node: 1.3 MB in an hour of ours.
    glibc keeps twice the largest block that was ever freed; this is one, of pages that are never touched.
    """
    np.empty(KEPT_BYTES, np.uint8)


def _keep_addresses_short() -> None:
    """Under srun, let MPICH speak libfabric rather than UCX between nodes, unless the environment says otherwise.

    SLURM's PMI takes in 1024 bytes of a request and loses the rest. MPICH offers UCX's addresses in pieces of about
    that length, depending on what happens to lie in memory: now and then a rank waits in MPI_Init for ever.
    """
    if launch.by_slurm_pmi() and re.search(r"MPICH Device:\s*ch4:.*\bofi\b", MPI.Get_library_version()):
        os.environ.setdefault("MPIR_CVAR_CH4_NETMOD", "ofi")


def leave(code: int) -> None:
    """End this process in order, MPI included."""
    guard.finished = True
    watchdog.stop()
    for number in STOP_SIGNALS:  # Python takes its own handlers down before the process ends
        signal.signal(number, signal.SIG_IGN)
    if not MPI.Is_initialized() or MPI.COMM_WORLD.size < launch.size():
        launch.let_rank0_leave_first()
    elif not MPI.Is_finalized():
        with _or_die(FINALIZE_S):
            MPI.Finalize()
    sys.exit(code)


STOP_SIGNALS = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
FINALIZE_S = 60.0
"""Seconds that MPI may take to end, when everything is written down."""
ECHO_S = 0.5
"""One Ctrl-C may reach a rank twice, from the terminal and from the launcher."""


class StopSignals:
    """SIGUSR1, SIGTERM, SIGINT and SIGHUP set a flag; the ranks agree on it at a round's end and leave together.

    A SIGINT after any of them ends the job at once, without a checkpoint, with exit code 130.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._at = 0.0
        for number in STOP_SIGNALS:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: Any) -> None:
        name, now = signal.Signals(number).name, time.monotonic()
        echo = self.received == "SIGINT" and now - self._at < ECHO_S
        if name == "SIGINT" and self.received and not echo:
            guard.abort("Ctrl-C while stopping: ended without a checkpoint", HURRIED)
        self.received, self._at = name, now


def local_rank(comm: MPI.Intracomm) -> tuple[int, int]:
    """This rank's number among those on its node, and how many those are. Collective."""
    with ranks_of_node(comm) as node:
        place = node.rank, node.size
    return place


def library() -> str:
    """The MPI library in use, e.g. "MPICH Version: 5.0.2" or "Open MPI v5.0.11". May be asked before MPI starts."""
    return " ".join(MPI.Get_library_version().split("\n")[0].split(",")[0].strip("\x00 ").split())
