"""Playing with an agent of a finished or running run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch

from mpi_ltcr import assembly_c51, envs, options
from mpi_ltcr import assembly_ca3c as ca3c
from mpi_ltcr.archive import checkpoint
from mpi_ltcr.archive.rundir import RunDirectory
from mpi_ltcr.comm.runtime import BAD_CHECKPOINT, JobError
from mpi_ltcr.config import CA3CConfig, Config, ConfigError
from mpi_ltcr.interaction import evaluate
from mpi_ltcr.interfaces import Policy
from mpi_ltcr.seeds import SeedTree


class Guest(NamedTuple):
    """A trained agent that plays again, and the environment in which it learned."""

    name: str
    env: gymnasium.Env
    player: Callable[[np.random.Generator], Policy]


def evaluate_run(run: Path, index: int, episodes: int, seed: int) -> Iterator[str]:
    """Lines that tell the return of each episode of agent (cA3C: task) number `index`, then their mean.

    Raises:
        ConfigError: not a run, or it has no such agent.
        JobError: no usable checkpoint.
    """
    if not (run / "config.yaml").is_file():
        raise ConfigError(f"{run}: not a run directory (no config.yaml)")
    config = options.load_file(run / "config.yaml")
    try:
        guest = GUESTS[config.program](config, RunDirectory(run), index)
    except checkpoint.CheckpointError as error:
        raise JobError(str(error), BAD_CHECKPOINT) from None
    seeds, values = SeedTree(seed), []
    for k in range(episodes):
        policy = guest.player(seeds.generator(index, "eval_policy", k))
        episode = evaluate(guest.env, policy, seeds.integer(index, "eval_env", k))
        values.append(episode.value)
        yield f"episode {k}: return {episode.value:g}, {episode.length} frames"
    spread = np.std(values, ddof=1) if episodes > 1 else 0.0
    yield f"{guest.name}: mean return {np.mean(values):.2f}, sd {spread:.2f}, {episodes} episodes"


def _ltcr_guest(config: Config, run: RunDirectory, index: int) -> Guest:
    folder, _ = checkpoint.newest_whole(run.checkpoints)
    size = checkpoint.read_manifest(folder)["world_size"]
    _require_index(index, size, "agents")
    env = envs.make(config.env.id, config.env.kwargs)
    agent = assembly_c51.build_c51(
        config.agent_of(index),
        envs.spec_of(config.env.id, env),
        SeedTree(config.seed),
        index,
        torch.device("cpu"),
        config.eval.epsilon,
        config.transfer.speak_net,
    )
    agent.load_weights(checkpoint.load_file(folder / checkpoint.rank_file(index))["agent"])
    return Guest(f"agent {index} at {folder.name}", env, agent.player)


def _ca3c_guest(config: CA3CConfig, run: RunDirectory, index: int) -> Guest:
    _require_index(index, len(config.tasks), "tasks")
    task = config.tasks[index]
    folder, _ = checkpoint.newest_whole(run.task_checkpoints(task.name))
    store = checkpoint.load_file(folder / ca3c.SERVER_FILE)["store"]
    worker = ca3c.build_worker(config, task, 0, [], [], lambda kind, gradient: None, lambda: None)
    worker.agent.load_weights(store["values"][: store["network"]])
    return Guest(f"{task.name} at {folder.name}", worker.loop.env, worker.agent.player)


def _require_index(index: int, count: int, what: str) -> None:
    if not 0 <= index < count:
        raise ConfigError(f"--agent: {index} is not among these {count} {what}; take 0 to {count - 1}")


GUESTS: dict[str, Callable[[Any, RunDirectory, int], Guest]] = {"ltcr": _ltcr_guest, "ca3c": _ca3c_guest}
