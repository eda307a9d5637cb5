"""Atari with memories of small segments, for whole jobs: `--env.id tiny_atari:Atari-v0`, imported on every rank.

TINY_ATARI_KILL    a file; rank 0 dies at its second checkpoint, after all segments and before the manifest, unless
                   the file is there. It makes the file.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import gymnasium

from mpi_ltcr import envs
from mpi_ltcr.archive import checkpoint
from mpi_ltcr.memory.frame_ring import FrameRing

if "Atari-v0" not in gymnasium.registry:
    gymnasium.register("Atari-v0", envs.ENVS["mpi_ltcr/Atari-v0"].entry_point)
    envs.ENVS["tiny_atari:Atari-v0"] = envs.Entry(None, None, None, 1.0, stacked=True)
    FrameRing.__init__.__kwdefaults__["segment_rows"] = 24

if mark := os.environ.get("TINY_ATARI_KILL"):
    commit, commits = checkpoint.commit, 0

    def commit_or_die(*args: Any, **kwargs: Any) -> Path:
        global commits
        commits += 1
        if commits == 2 and not Path(mark).exists():
            Path(mark).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return commit(*args, **kwargs)

    checkpoint.commit = commit_or_die
