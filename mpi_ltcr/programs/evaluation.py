"""Playing with an agent of a finished or running run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from mpi_ltcr import assembly, envs, options
from mpi_ltcr.archive import checkpoint
from mpi_ltcr.comm.runtime import BAD_CHECKPOINT, JobError
from mpi_ltcr.config import ConfigError
from mpi_ltcr.interaction import evaluate
from mpi_ltcr.seeds import SeedTree


def evaluate_run(run: Path, index: int, episodes: int, seed: int) -> Iterator[str]:
    """Lines that tell the return of each episode of agent `index`, then their mean.

    Raises:
        ConfigError: not a run, or it has no such agent.
        JobError: no usable checkpoint.
    """
    if not (run / "config.yaml").is_file():
        raise ConfigError(f"{run}: not a run directory (no config.yaml)")
    config = options.load_file(run / "config.yaml")
    try:
        folder, _ = checkpoint.newest_whole(run / "checkpoints")
        size = checkpoint.read_manifest(folder)["world_size"]
        if not 0 <= index < size:
            raise ConfigError(f"--agent: {index} is not in this team of {size}; take 0 to {size - 1}")
        state = checkpoint.load_file(folder / checkpoint.rank_file(index))
    except checkpoint.CheckpointError as error:
        raise JobError(str(error), BAD_CHECKPOINT) from None
    env = envs.make(config.env.id, config.env.kwargs)
    spec = envs.spec_of(config.env.id, env)
    seeds = SeedTree(seed)
    agent = assembly.build_c51(
        config.agent_of(index), spec, seeds, index, torch.device("cpu"), config.eval.epsilon, config.transfer.speak_net
    )
    agent.load_weights(state["agent"])
    values = []
    for k in range(episodes):
        policy = agent.player(seeds.generator(index, "eval_policy", k))
        episode = evaluate(env, policy, seeds.integer(index, "eval_env", k))
        values.append(episode.value)
        yield f"episode {k}: return {episode.value:g}, {episode.length} frames"
    spread = np.std(values, ddof=1) if episodes > 1 else 0.0
    yield f"agent {index} at {folder.name}: mean return {np.mean(values):.2f}, sd {spread:.2f}, {episodes} episodes"
