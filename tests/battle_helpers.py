"""Small teams of Space Battle in one process, and the run directories that they leave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from mpi_ltcr import assembly, options, rivals
from mpi_ltcr.archive import checkpoint
from mpi_ltcr.comm.roles import Role
from mpi_ltcr.config import Config

DUEL = [
    "small-ltcr-space-battle-2v2-alone",
    *("--frames", "1000"),
    *("--env.kwargs.rules", "{team_size: 1, arena: 200, health: 30}"),
    *("--agent.hidden", "[16]"),
    *("--agent.batch", "8"),
    *("--agent.warmup", "20"),
    *("--agent.replay_capacity", "500"),
    *("--agent.lr", "0.01"),
    *("--agent.backend", "fused"),
    *("--env.copies", "2"),
]
"""One against one with policies that change fast, two games side by side."""


class Lonely:
    """The collectives of a team of one."""

    def allgather(self, payload: np.ndarray) -> np.ndarray:
        return payload[None]


def load(*overrides: str) -> Config:
    config, _ = options.load([*DUEL, *overrides])
    return config


def member_of(config: Config, found: rivals.Rivals | None = None) -> Any:
    found = found or rivals.find(config)
    return assembly.build_member(config, Role(0, 0, True), Lonely(), torch.device("cpu"), found)  # type: ignore[arg-type]


def save_run(folder: Path, config: Config, *agents: Any, frames: int = 10, **more: Any) -> Path:
    """A run directory of these agents, as a finished run leaves it."""
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(options.to_yaml(config))
    draft = checkpoint.begin(folder / "checkpoints", frames)
    entries = [
        checkpoint.write_file(draft, checkpoint.rank_file(i), {"agent": agent.state(), **more})
        for i, agent in enumerate(agents)
    ]
    checkpoint.commit(folder / "checkpoints", frames, entries, {"world_size": len(agents)})
    return folder
