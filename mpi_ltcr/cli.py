"""The command line: train, resume, eval, status, verify, presets."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import NoReturn

from mpi_ltcr import __version__, options
from mpi_ltcr.comm import launch
from mpi_ltcr.config import Config, ConfigError

HELP = """usage: mpi-ltcr VERB ...

Train teams of reinforcement-learning agents that learn from each other; one MPI rank is one agent.

  mpirun -n 2 mpi-ltcr train ltcr-cartpole-9-1          train a preset (see: mpi-ltcr presets)
  mpirun -n 2 mpi-ltcr train ltcr-cartpole-9-1 --agent.lr 3e-4 --seed 2 --out runs/a
  mpi-ltcr train ltcr-cartpole-9-1 --plan               who does what, sizes; starts nothing
  mpi-ltcr train ltcr-cartpole-9-1 --print_config       the whole configuration as YAML
  mpirun -n 2 mpi-ltcr resume runs/a                    go on from the last whole checkpoint
  mpi-ltcr status runs/a [--json] [--exit-code]         what it is doing
  mpi-ltcr verify runs/a                                every hash, every file
  mpi-ltcr eval runs/a --agent 0 --episodes 30          play with a trained agent
  mpi-ltcr eval runs/team --video game.gif              film a game of a team (.gif or .mp4)

`mpi-ltcr VERB --help` tells more. Exit codes: 0 completed, 2 bad input, 65 unusable checkpoint, 70 internal error,
74 disk, 77 environment refused, 85 stopped on a signal and saved.
"""


def main(arguments: list[str] | None = None) -> None:
    """Run one verb and exit with its code."""
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


class Parser(argparse.ArgumentParser):
    """Refuses in one line, like everything else."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message.removeprefix('argument ')}; see {self.prog} --help")


def complain(message: str) -> None:
    """One line for the whole job, whoever of the ranks sees the error."""
    if launch.rank() == 0:
        print(f"mpi-ltcr: error: {message}", file=sys.stderr, flush=True)


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
    """Go on with a run."""
    parser = Parser("mpi-ltcr resume", description=resume.__doc__)
    parser.add_argument("run", type=Path, help="the run directory")
    parser.add_argument("--frames", type=int, help="train to this frame instead, e.g. to prolong a completed run")
    parser.add_argument("--force-unlock", action="store_true", help="take over a lock whose owner is surely gone")
    asked = parser.parse_args(arguments)
    require_run(asked.run)
    frames = [] if asked.frames is None else ["--frames", str(asked.frames)]
    config, _ = options.load(["--config", str(asked.run / "config.yaml"), *frames])
    check_env(config)
    config.check_team(launch.size())
    run_job(config, asked.run, asked.force_unlock)


def run_job(config: Config, resumed: Path | None = None, force_unlock: bool = False) -> None:
    """Start MPI, run, and leave in order; a JobError is printed by rank 0 alone."""
    from mpi_ltcr.comm import runtime

    code = runtime.COMPLETED
    signals = runtime.StopSignals()  # before MPI and torch, which take seconds: a signal meanwhile is not lost
    try:
        comm = runtime.start()
        from mpi_ltcr.programs import PROGRAMS  # only now, because it loads torch: a wrong launcher is refused at once
        from mpi_ltcr.programs.job import Job

        Job(config, resumed, force_unlock).run(comm, PROGRAMS[config.program].prepare, signals)
    except runtime.JobError as error:
        complain(str(error))
        code = error.code
    runtime.leave(code)


def check_env(config: Config) -> None:
    """Raise ConfigError unless the environment exists, can be made, and suits the agents; and so its enemies."""
    from mpi_ltcr import envs, rivals

    try:
        for env in config.environments():
            made = envs.make(env.id, rivals.without_policies(env))
            made.close()
            if isinstance(config, Config):
                config.check_sight(envs.spec_of(env.id, made).obs_shape)
    except envs.EnvError as error:
        raise ConfigError(str(error)) from None
    if isinstance(config, Config):
        rivals.find(config)


def require_run(run: Path) -> None:
    """Raise ConfigError unless a run lies there."""
    if not (run / "config.yaml").is_file():
        raise ConfigError(f"{run}: not a run directory (no config.yaml); mpi-ltcr train makes one")


def check_out(config: Config) -> None:
    """Raise ConfigError if the run directory cannot be made; the binding check is made again when it is."""
    out = Path(config.out or "runs")
    if config.out and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"out: {out} exists already; choose another --out, or: mpi-ltcr resume {out}")
    parent = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise ConfigError(f"out: {out} cannot be made, {parent} is no writable directory; choose another --out")


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


def status(arguments: list[str]) -> None:
    """Print what a run is doing, from its published files alone."""
    parser = Parser("mpi-ltcr status", description=status.__doc__)
    parser.add_argument("run", type=Path, help="the run directory")
    parser.add_argument("--json", action="store_true", help="print status.json")
    parser.add_argument("--exit-code", action="store_true", help="exit as the run did; 1 while it has not ended")
    asked = parser.parse_args(arguments)
    from mpi_ltcr.archive.rundir import RunDirectory

    content = RunDirectory(asked.run).read_status()
    if not {"state", "heartbeat"} <= set(content):
        raise ConfigError(f"{asked.run}: no readable status.json; not a run directory")
    if asked.json:
        print(json.dumps(content))
    else:
        age = time.time() - content["heartbeat"]
        print(
            f"{asked.run}: {content['state']} at frame {content.get('frames', 0)}, attempt {content.get('attempt', 1)}"
        )
        print(f"last checkpoint: frame {content.get('checkpoint', 'none yet')}; last heartbeat {age:.0f} s ago")
        if content.get("error"):
            print(content["error"])
    if asked.exit_code:
        sys.exit(content.get("exit_code", 1))


def verify(arguments: list[str]) -> None:
    """Check every file of a run: hashes of all checkpoints, logs that open and hold what the schema says."""
    parser = Parser("mpi-ltcr verify", description=verify.__doc__)
    parser.add_argument("run", type=Path, help="the run directory")
    asked = parser.parse_args(arguments)
    from mpi_ltcr.archive.verification import verify_run

    require_run(asked.run)
    problems = 0
    for name, problem in verify_run(asked.run):
        print(f"{'FAULT' if problem else 'ok   '} {name}{': ' + problem if problem else ''}")
        problems += bool(problem)
    if problems:
        complain(f"{asked.run}: {problems} faulty; resume uses the newest whole checkpoint")
        sys.exit(65)


def presets(arguments: list[str]) -> None:
    """List the presets that come with the program."""
    Parser("mpi-ltcr presets", description=presets.__doc__).parse_args(arguments)
    for name in options.preset_names():
        print(f"{name:28s}{options.preset_summary(name)}")


VERBS = {
    "train": train,
    "resume": resume,
    "eval": evaluate,
    "status": status,
    "verify": verify,
    "presets": presets,
}

os.environ.setdefault("HDF5_PLUGIN_PRELOAD", "::")  # no dynamic HDF5 filters: a hostile file could name one
for pool in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(pool, "1")  # one core per rank; torch's own number is runtime.threads
