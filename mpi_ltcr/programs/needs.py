"""How much a run will write, computed from shapes before anything is started: what the disk must hold."""

from __future__ import annotations

from typing import Any

import torch

from mpi_ltcr import assembly, assembly_agents, envs, rivals
from mpi_ltcr import assembly_ca3c as ca3c
from mpi_ltcr.comm.roles import ltcr_roles
from mpi_ltcr.config import CA3CConfig, Config

LOG_COLUMNS = 32
"""Numbers, of 8 bytes each, that a round or a rollout leaves in the logs."""


def visible_gpus() -> int:
    """How many GPUs this process may use."""
    return torch.cuda.device_count()


def run_bytes(config: Any, size: int) -> int:
    """What a run on so many ranks comes to on the disk at most: `checkpoint.keep` checkpoints, the one that is being
    written, and the logs. Raises ConfigError like the run's start."""
    if isinstance(config, Config):
        return _ltcr_bytes(config, size)
    return _ca3c_bytes(config) if isinstance(config, CA3CConfig) else 0


def _ltcr_bytes(config: Config, size: int) -> int:
    env = envs.make(config.env.id, rivals.without_policies(config.env))
    spec = envs.spec_of(config.env.id, env)
    env.close()
    weights = memories = 0
    for role in ltcr_roles(size):
        net = assembly_agents.build_net(config.agent_of(role.agent), spec, torch.Generator())
        weights += 24 * sum(p.numel() for p in net.parameters())  # two networks, two Adams of two moments each
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
