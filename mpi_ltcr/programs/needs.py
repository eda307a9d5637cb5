"""How much a run will hold and write, computed from shapes before anything is made: what node and disk must have."""

from __future__ import annotations

from typing import Any

import torch

from mpi_ltcr import assembly, assembly_agents, envs, rivals
from mpi_ltcr import assembly_ca3c as ca3c
from mpi_ltcr.comm import node
from mpi_ltcr.comm.roles import ltcr_roles
from mpi_ltcr.config import CA3CConfig, Config, require
from mpi_ltcr.interfaces import EnvSpec

LOG_COLUMNS = 32
"""Numbers, of 8 bytes each, that a round or a rollout leaves in the logs."""

PARAMETER_BYTES = 24
"""Of each parameter, on a rank: of two networks and two Adams of two moments each, or of as many vectors otherwise."""


def visible_gpus() -> int:
    """How many GPUs this process may use."""
    return torch.cuda.device_count()


def spec_of(config: Config) -> EnvSpec:
    """Of the environment of LTCR's agents."""
    env = envs.make(config.env.id, rivals.without_policies(config.env))
    spec = envs.spec_of(config.env.id, env)
    env.close()
    return spec


def check_networks(parameters: int, fields: str, comm: Any) -> int | None:
    """Collective. The bytes that this node has left beside the networks of its ranks; None where it does not say.

    Args:
        parameters: of this rank's network.
        fields: what makes it large.

    Raises:
        ConfigError: it has not so many.
    """
    need, ranks = node.total_of_node(comm, PARAMETER_BYTES * parameters)
    available = node.available_memory()
    if available is None:
        return None
    require(
        need <= available,
        f"{fields}: networks of {parameters} parameters and their optimisers come to {need} bytes for {ranks} rank(s) "
        f"on this node, {available} are available; take narrower layers, or fewer ranks on a node",
    )
    return available - need


def run_bytes(config: Any, size: int) -> int:
    """What a run on so many ranks comes to on the disk at most: `checkpoint.keep` checkpoints, the one that is being
    written, and the logs. Raises ConfigError like the run's start."""
    if isinstance(config, Config):
        return _ltcr_bytes(config, size)
    return _ca3c_bytes(config) if isinstance(config, CA3CConfig) else 0


def _ltcr_bytes(config: Config, size: int) -> int:
    spec = spec_of(config)
    weights = memories = 0
    for role in ltcr_roles(size):
        weights += PARAMETER_BYTES * assembly_agents.parameters_of(config.agent_of(role.agent), spec)
        memories += assembly.memory_need(config, spec, role)
    copies = int(config.checkpoint.keep) + 1
    kept = 1 if spec.stacked else copies  # of frames, the parts that never change again are written once
    rows = config.frames // config.round_frames + config.frames // config.eval.every * config.eval.episodes
    return copies * weights + kept * memories + 8 * LOG_COLUMNS * rows * size


def _ca3c_bytes(config: CA3CConfig) -> int:
    saved = 0
    for number, task in enumerate(config.tasks):
        teachings = [ca3c.load_teaching(config, task, teacher) for teacher in task.teachers]
        store = ca3c.build_store(config, number, teachings)
        saved += 4 * (len(store.values) + 2 * sum(store.sizes.values()))
    rows = len(config.tasks) * config.frames // config.agent.rollout
    return (int(config.checkpoint.keep) + 1) * saved + 8 * LOG_COLUMNS * rows
