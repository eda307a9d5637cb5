"""The command line: train, resume, launch, eval, status, verify, bench, presets."""

from __future__ import annotations

import importlib
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from mpi_ltcr import __version__, options
from mpi_ltcr.comm import launch
from mpi_ltcr.config import Config, ConfigError
from mpi_ltcr.verbs.checks import Parser, check_env, check_out, complain, require_run

if TYPE_CHECKING:
    from mpi_ltcr.archive.regroup import Regrouping

HELP = """usage: mpi-ltcr VERB ...

Train teams of reinforcement-learning agents that learn from each other; one MPI rank is one agent.

  mpirun -n 2 mpi-ltcr train ltcr-cartpole-9-1          train a preset (see: mpi-ltcr presets)
  mpirun -n 2 mpi-ltcr train ltcr-cartpole-9-1 --agent.lr 3e-4 --seed 2 --out runs/a
  mpi-ltcr doctor [ltcr-cartpole-9-1]                   will it run here? what to mend if not
  mpi-ltcr train ltcr-cartpole-9-1 --plan               who does what, sizes; starts nothing
  mpi-ltcr train ltcr-cartpole-9-1 --print_config       the whole configuration as YAML
  mpi-ltcr bench env learn                              rates of its pieces beside the bare ones
  mpirun -n 2 mpi-ltcr resume runs/a                    go on from the last whole checkpoint
  mpirun -n 3 mpi-ltcr resume runs/a --agents 3         with a team of another size; --keep 0,2 says who stays
  mpi-ltcr launch -n 2 --max-restarts 3 -- train ltcr-cartpole-9-1     finds mpirun, goes on after a crash
  mpi-ltcr status runs/a [--json] [--exit-code]         what it is doing
  mpi-ltcr watch runs/a [--once]                        the same renewed: returns, KL, phases, each rank's heartbeat
  mpi-ltcr verify runs/a                                every hash, every file
  mpi-ltcr export runs/a --csv --tensorboard            logs for other tools; --safetensors: weights
  mpi-ltcr eval runs/a --agent 0 --episodes 30          play with a trained agent
  mpi-ltcr eval runs/team --video game.gif              film a game of a team (.gif or .mp4)

`mpi-ltcr VERB --help` tells more. Exit codes: 0 completed, 2 bad input, 65 unusable checkpoint, 70 internal error,
74 disk, 75 hang or lost rank, 77 environment refused, 85 stopped on a signal and saved, 130 ended by a second Ctrl-C.
"""


def main(arguments: list[str] | None = None) -> None:
    """Run one verb and exit with its code."""
    _whole_lines()
    arguments = sys.argv[1:] if arguments is None else arguments
    verb, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if verb in ("-h", "--help"):
        sys.exit(print(HELP, end=""))
    if verb == "--version":
        sys.exit(print(f"mpi-ltcr {__version__}"))
    try:
        if verb not in VERBS:
            raise ConfigError(f"{verb}: no such verb; use one of {', '.join(VERBS)}, or mpi-ltcr --help")
        VERBS[verb](rest)
    except ConfigError as error:
        complain(str(error))
        launch.let_rank0_leave_first()
        sys.exit(2)


def _whole_lines() -> None:
    """Let a line of standard error leave in one write: Python's own newline comes in a second one, and a launcher, who
    passes on what ranks write as it comes, can put another rank's line before it.
    """
    if isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr.reconfigure(write_through=False, line_buffering=True)


def train(arguments: list[str]) -> None:
    """Train a new run."""
    config, plan = options.load(arguments)
    check_env(config)
    if not (plan and launch.size() == 1):
        config.check_team(launch.size())
    if plan:
        from mpi_ltcr.programs import PROGRAMS

        if launch.rank() == 0:
            print(PROGRAMS[config.program].describe(config, launch.size()), end="")
        return
    check_out(config)
    run_job(config)


def resume(arguments: list[str]) -> None:
    """Go on with a run, with the same team or another one."""
    from mpi_ltcr.archive.regroup import config_file
    from mpi_ltcr.verbs.teams import change_of_team, check_frames, make_parser

    asked = make_parser(resume.__doc__).parse_args(arguments)
    require_run(asked.run)
    frames = [] if asked.frames is None else ["--frames", str(asked.frames)]
    config, _ = options.load(["--config", str(config_file(asked.run)), *frames])
    check_frames(asked, config)
    config, change = change_of_team(asked, config)
    check_env(config)
    config.check_team(launch.size())
    run_job(config, asked.run, asked.force_unlock, change)


def run_job(
    config: Config, resumed: Path | None = None, force_unlock: bool = False, change: Regrouping | None = None
) -> None:
    """Start MPI, run, and leave in order; a JobError is printed by rank 0 alone."""
    from mpi_ltcr.comm import runtime

    code = runtime.COMPLETED
    signals = runtime.StopSignals()  # before MPI and torch, which take seconds: a signal meanwhile is not lost
    try:
        comm = runtime.start()
        from mpi_ltcr.programs import PROGRAMS  # only now, because it loads torch: a wrong launcher is refused at once
        from mpi_ltcr.programs.job import Job

        Job(config, resumed, force_unlock, change).run(comm, PROGRAMS[config.program].prepare, signals)
    except runtime.JobError as error:
        complain(str(error))
        code = error.code
    runtime.leave(code)


def evaluate(arguments: list[str]) -> None:
    """Play with a trained agent of a run, or its team, and print the returns; film them if asked to."""
    parser = Parser("mpi-ltcr eval", description=evaluate.__doc__)
    parser.add_argument("run", type=Path, help="the run directory")
    parser.add_argument(
        "--agent", type=int, help="number of the agent, of the task in cA3C (default 0); none for teams"
    )
    parser.add_argument("--episodes", type=int, help="episodes to play (default 10, 1 with --video)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the episodes (default 0)")
    parser.add_argument(
        "--enemies", help="Space Battle: random, scripted, stationary, frozen:RUN (default: as trained)"
    )
    parser.add_argument("--video", type=Path, metavar="FILE", help="film the episodes: a .gif or .mp4 (extra `video`)")
    asked = parser.parse_args(arguments)
    if asked.episodes is None:
        asked.episodes = 1 if asked.video else 10
    if asked.episodes < 1:
        raise ConfigError(f"--episodes: {asked.episodes} plays nothing; take at least 1")
    require_run(asked.run)
    from mpi_ltcr.comm.runtime import JobError
    from mpi_ltcr.programs.evaluation import Asked, evaluate_run

    try:
        for line in evaluate_run(Asked(**vars(asked))):
            print(line)
    except JobError as error:
        complain(str(error))
        sys.exit(error.code)


def presets(arguments: list[str]) -> None:
    """List the presets that come with the program."""
    Parser("mpi-ltcr presets", description=presets.__doc__).parse_args(arguments)
    for name in options.preset_names():
        print(f"{name:28s}{options.preset_summary(name)}")


def _in_verbs(name: str) -> Callable[[list[str]], None]:
    """A verb that has a file of its own, loaded only when it is used: `presets` needs no MPI library."""

    def verb(arguments: list[str]) -> None:
        getattr(importlib.import_module(f"mpi_ltcr.verbs.{name}"), name)(arguments)

    return verb


VERBS = {
    "train": train,
    "resume": resume,
    "launch": _in_verbs("launch"),
    "doctor": _in_verbs("doctor"),
    "eval": evaluate,
    "export": _in_verbs("export"),
    "status": _in_verbs("status"),
    "verify": _in_verbs("verify"),
    "watch": _in_verbs("watch"),
    "presets": presets,
    "bench": _in_verbs("bench"),
}

for pool in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(pool, "1")  # one core per rank; torch's own number is runtime.threads
