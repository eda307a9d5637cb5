"""What whole jobs on Atari share: an environment with memories of small segments, a training of seconds."""

from __future__ import annotations

import os
from pathlib import Path

TINY = [
    *("--frames", "240"),
    *("--env.id", "tiny_atari:Atari-v0"),
    *("--env.kwargs", "{game: Phoenix, preprocessing: dqn, episodic_life: true, max_steps: 70}"),
    *("--agent.replay_capacity", "120"),
    *("--agent.batch", "8"),
    *("--agent.warmup", "40"),
    *("--agent.target_period", "50"),
    *("--agent.epsilon_frames", "100"),
    *("--transfer.memory_size", "100"),
    *("--transfer.demonstrations", "8"),
    *("--transfer.start", "40"),
    *("--eval.every", "120"),
    *("--log.probe_size", "4"),
    *("--log.probe_every", "120"),
    *("--checkpoint.every", "80"),
]

HERE = str(Path(__file__).parent)
FINDS_TINY = {"PYTHONPATH": os.pathsep.join(filter(None, [HERE, os.environ.get("PYTHONPATH", "")]))}
"""Variables with which every rank finds `tiny_atari`."""
