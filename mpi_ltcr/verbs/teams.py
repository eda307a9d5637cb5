"""`resume`: its options, and what is asked of a team that shall go on with another number of agents."""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
from pathlib import Path
from typing import Any

from mpi_ltcr.archive import checkpoint
from mpi_ltcr.archive.checkpoint import CheckpointError
from mpi_ltcr.archive.reader import ReadError
from mpi_ltcr.archive.regroup import Regrouping, regroup
from mpi_ltcr.archive.rundir import RunDirectory
from mpi_ltcr.comm import launch
from mpi_ltcr.config import CA3CConfig, Config, ConfigError, require
from mpi_ltcr.verbs.checks import Parser, complain


def make_parser(description: str | None = None) -> Parser:
    """Of `resume`."""
    parser = Parser("mpi-ltcr resume", description=description)
    parser.add_argument("run", type=Path, help="the run directory")
    parser.add_argument("--frames", type=int, help="train to this frame instead, e.g. to prolong a completed run")
    parser.add_argument("--force-unlock", action="store_true", help="take over a lock whose owner is surely gone")
    parser.add_argument(
        "--agents",
        type=int,
        metavar="M",
        help="LTCR: go on with so many agents, on mpirun -n M; not in a shared game, whose rules say how many play",
    )
    parser.add_argument("--keep", metavar="0,2", help="with --agents: who stays, in this order (default: the first M)")
    parser.add_argument(
        "--new-agents",
        choices=("fresh", "clone-best"),
        help="with --agents: what additional ones begin with: nothing (default), or what the best one knows",
    )
    return parser


def check_frames(asked: argparse.Namespace, config: Any) -> None:
    """Raise ConfigError if the run, or a task of it, is past the frames that are asked for."""
    run, places = RunDirectory(asked.run), []
    if isinstance(config, Config):
        places = [(run.checkpoints, 0)]
    elif isinstance(config, CA3CConfig):  # a task ends with the rollouts that are under way
        rollouts = [config.workers_of(task) * task.env.copies * config.agent.rollout for task in config.tasks]
        names = [task.name for task in config.tasks]
        places = [(run.task_checkpoints(name), over) for name, over in zip(names, rollouts, strict=True)]
    for checkpoints, over in places:
        reached = max(map(checkpoint.frames_of, checkpoint.folders(checkpoints)), default=0)
        require(
            asked.frames is None or asked.frames + over >= reached,
            f"--frames: {asked.frames} is behind frame {reached}, which {asked.run} has reached; take more than that",
        )


def change_of_team(asked: argparse.Namespace, config: Any) -> tuple[Any, Regrouping | None]:
    """The configuration of the team that goes on, and how it comes about; (config, None) where nothing is to change,
    or the same command has changed it.

    Raises:
        ConfigError: it cannot be.
    """
    if asked.agents is None:
        require(asked.keep is None, "--keep: says who stays when the team changes; give --agents as well")
        require(asked.new_agents is None, "--new-agents: says what additional ones know; give --agents as well")
        return config, None
    require(
        isinstance(config, Config),
        f"--agents: {config.program} cannot change its team; its workers share one network: start a new run",
    )
    require(not config.env.shared, "--agents: a shared game has a fixed number of ships; start a new run")
    require(asked.agents >= 1, f"--agents: {asked.agents} is no team; take at least 1")
    size = launch.size()
    require(asked.agents == size, f"--agents: {asked.agents} asked for, {size} started; use mpirun -n {asked.agents}")
    sound = asked.keep is None or re.fullmatch(r"\d{1,6}(,\d{1,6})*", asked.keep)
    require(bool(sound), f"--keep: {asked.keep!r} is no list of agents; write e.g. --keep 0,2")
    keep = None if asked.keep is None else [int(number) for number in asked.keep.split(",")]
    try:
        change = regroup(asked.run, asked.agents, keep, clone_best=asked.new_agents == "clone-best")
    except (ValueError, ReadError) as error:
        raise ConfigError(str(error)) from None
    except CheckpointError as error:
        complain(str(error))
        launch.let_rank0_leave_first()
        sys.exit(65)
    return (dataclasses.replace(config, agents=change.settings(config.agents)), change) if change else (config, None)
