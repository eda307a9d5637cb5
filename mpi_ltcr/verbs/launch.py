"""`mpi-ltcr launch`: a job under the right mpirun, stopped in order by any signal, resumed after a crash.

    mpi-ltcr launch -n 2 -- train ltcr-cartpole-9-1
    mpi-ltcr launch -n 2 --max-restarts 3 -- resume runs/a

It gives mpirun a session of its own, so that a Ctrl-C in a terminal reaches this process alone. SIGINT, SIGTERM,
SIGHUP and SIGUSR1 are all handed on as SIGUSR1, the one signal that both MPIs' launchers forward: the ranks save and
leave with exit code 85. A second Ctrl-C ends the job at once, with exit code 130. If this process itself is killed, the
same SIGUSR1 goes to mpirun.

How an attempt ended is read from status.json, since a launcher's own exit code can be wrong. After a crash (70, or 75:
hung, or killed without a word) `--max-restarts` times the run goes on from its last whole checkpoint; never after a
refusal (2, 65, 77), a full disk (74), or a stop (85).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from mpi_ltcr import options
from mpi_ltcr.archive.rundir import RunDirectory, new_name
from mpi_ltcr.comm import mpirun
from mpi_ltcr.config import ConfigError
from mpi_ltcr.verbs.checks import Parser, check_env, check_out, require_run
from mpi_ltcr.verbs.teams import make_parser as resume_parser

PREEMPTED, LOST, ENVIRONMENT, HURRIED = 85, 75, 77, 130
RESTARTED = (70, 75)
"""Exit codes after which it makes sense to go on from the last checkpoint."""
REMIND_S = 5.0
"""Seconds after which a job that does not stop is asked again."""
GONE_S = 15.0
"""Seconds that the ranks of a launcher that has ended may take to end as well."""
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


def launch(arguments: list[str]) -> None:
    """Start a job with the mpirun that belongs to the MPI in use, and see it through."""
    at = arguments.index("--") if "--" in arguments else len(arguments)
    asked = make_parser().parse_args(arguments[:at])
    if asked.n < 1:
        raise ConfigError(f"-n: {asked.n} starts nothing; take at least 1")
    if asked.max_restarts < 0:
        raise ConfigError(f"--max-restarts: {asked.max_restarts} is negative; take 0 or more")
    try:
        further = shlex.split(asked.mpirun_options)
    except ValueError as error:
        raise ConfigError(
            f"--mpirun-options: {asked.mpirun_options!r} has {str(error).lower()}; quote as in a shell"
        ) from None
    what = known_job(arguments[at + 1 :], asked.n)
    launcher = mpirun.find()
    if launcher is None:
        family = mpirun.library_family() or "the MPI library in use"
        print(f"mpi-ltcr: error: no mpirun of {family} found; see mpi-ltcr doctor", file=sys.stderr)
        sys.exit(ENVIRONMENT)
    words = [str(launcher.path), *mpirun.options(launcher, asked.n), *further]
    job = Supervisor([*words, sys.executable, "-m", "mpi_ltcr"], mpirun.variables(launcher), what.run)
    code = job.see_through(what.first, what.again, asked.max_restarts)
    for number in STOPPING:  # Python takes its own handlers down before the process ends
        signal.signal(number, signal.SIG_IGN)
    sys.exit(code)


def make_parser() -> Parser:
    """Of what stands before `--`."""
    parser = Parser(
        "mpi-ltcr launch", description=launch.__doc__, usage="mpi-ltcr launch -n N [...] -- train|resume ..."
    )
    parser.add_argument("-n", type=int, required=True, help="ranks; one is one agent, or as --plan says")
    parser.add_argument("--max-restarts", type=int, default=0, help="times that a crashed run goes on (default 0)")
    parser.add_argument("--mpirun-options", default="", help="further options of mpirun, e.g. '--hostfile hosts'")
    return parser


class Asked(NamedTuple):
    """What is to be launched."""

    run: Path
    """The directory that it writes, chosen now if the command leaves that open."""
    first: list[str]
    """The command of the first attempt."""
    again: list[str]
    """Of the next ones, once an attempt has begun: a team that was to change has changed by then."""


def known_job(command: list[str], ranks: int) -> Asked:
    """What a command asks for.

    Raises:
        ConfigError: it is neither `train` nor `resume`, or it would be refused on so many ranks.
    """
    verb, rest = (command[0], command[1:]) if command else ("", [])
    if verb == "resume":
        asked = resume_parser().parse_args(rest)
        require_run(asked.run)
        frames = [] if asked.frames is None else ["--frames", str(asked.frames)]
        return Asked(asked.run, command, ["resume", str(asked.run), *frames])
    if verb != "train":
        raise ConfigError(f"launch: {verb or 'nothing'} to be launched; write: mpi-ltcr launch -n 2 -- train PRESET")
    config, plan = options.load(rest)
    if plan:
        raise ConfigError("launch: --plan starts nothing; leave launch out: mpi-ltcr train ... --plan")
    check_env(config)
    config.check_team(ranks)
    check_out(config)
    run = Path(config.out or Path("runs") / new_name(config.name, config.seed))
    return Asked(run, [*command, *([] if config.out else ["--out", str(run)])], ["resume", str(run)])


class Supervisor:
    """One job, from its first attempt to its last.

    Args:
        words: the command but for the verb: mpirun, its options, this program.
        variables: added to the environment.
        run: the directory that the job writes.
    """

    def __init__(self, words: list[str], variables: dict[str, str], run: Path) -> None:
        self.words, self.variables, self.run = words, variables, RunDirectory(run)
        self.process: subprocess.Popen | None = None
        self.stopping = self.hurried = False
        for number in STOPPING:
            signal.signal(number, self._stop)

    def see_through(self, first: list[str], again: list[str], restarts: int) -> int:
        """Run it, and go on after crashes; the exit code of the last attempt."""
        before = self.attempts
        code = self.attempt(first)
        while code in RESTARTED and restarts and not self.stopping and self._wait_for_the_end():
            restarts -= 1
            status = self.run.read_status()
            if "checkpoint" not in status:
                tell(f"ended with exit code {code} before its first checkpoint; nothing to go on from")
                break
            why = status.get("error") or "killed without a word"
            tell(
                f"ended with exit code {code} ({why}); goes on from frame {status['checkpoint']}, {restarts} more left"
            )
            code = self.attempt(again if self.attempts > before else first)
        return code

    @property
    def attempts(self) -> int:
        """How many have begun."""
        return int(self.run.read_status().get("attempt", 0))

    def attempt(self, command: list[str]) -> int:
        """One mpirun from start to end; the exit code that status.json has for it."""
        before = self.attempts
        words = [*self.words, *command]
        tell(shlex.join(words))
        with mpirun.own_session() as session:
            self.process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                env={**session, **os.environ, **self.variables},
                start_new_session=True,
                preexec_fn=_prepare_child,
            )
            code = self._see_it_end(self.process)
        return self._outcome(before, code)

    def _see_it_end(self, process: subprocess.Popen) -> int:
        while True:
            if self.stopping:
                self._pass_on(signal.SIGUSR1)  # again and again: a rank that was only starting has not heard it
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(REMIND_S)

    def _outcome(self, before: int, code: int) -> int:
        """What an attempt came to: the record tells, where it was written."""
        status = self.run.read_status()
        if status.get("attempt", 0) <= before:  # refused, or stopped before it began
            stopped = HURRIED if self.hurried else PREEMPTED
            return stopped if self.stopping and code not in (2, 65, 77) else code or LOST
        if status.get("state") in ("completed", "preempted", "failed"):
            return int(status.get("exit_code", LOST))
        self._wait_for_the_end()
        ended, why = LOST, f"mpirun ended with {code}: a rank was killed"
        if self.hurried:
            ended, why = HURRIED, "Ctrl-C while stopping: ended without a checkpoint"
        self.run.write_status(state="failed", exit_code=ended, error=why)
        return ended

    def _wait_for_the_end(self) -> bool:
        """Give ranks whose launcher is gone the time to end; whether none holds the run any more."""
        end = time.monotonic() + GONE_S
        while self.run.owner() == "alive":
            if time.monotonic() > end:
                return False
            time.sleep(0.1)
        return True

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.stopping and number == signal.SIGINT:
            self.hurried = True
            tell("ends the job now, without a checkpoint")
            self._pass_on(signal.SIGINT)
            return
        if not self.stopping:
            tell(f"{signal.Signals(number).name}: asks the ranks to save and to leave; Ctrl-C once more ends them now")
        self.stopping = True
        self._pass_on(signal.SIGUSR1)

    def _pass_on(self, number: int) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)


def _prepare_child() -> None:
    """In the child, before it becomes mpirun: a rank that is only starting must not die of SIGUSR1 (it is asked again);
    and if this process is killed, the job is to stop."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    if sys.platform == "linux":
        libc: Any = ctypes.CDLL(None)
        libc.prctl(1, int(signal.SIGUSR1))  # PR_SET_PDEATHSIG


def tell(text: str) -> None:
    """One line on stderr."""
    with contextlib.suppress(OSError):  # after a SIGHUP there may be no terminal any more
        print(f"mpi-ltcr launch: {text}", file=sys.stderr, flush=True)
