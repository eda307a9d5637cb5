"""How far a run may be asked to go on."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest

from mpi_ltcr import options
from mpi_ltcr.config import ConfigError
from mpi_ltcr.verbs.teams import check_frames


def reached(run: Path, place: str) -> Path:
    (run / "checkpoints" / place).mkdir(parents=True)
    return run


@pytest.mark.parametrize("frames", [None, 400, 500])
def test_a_run_goes_on_to_the_frame_where_it_is_or_beyond(tmp_path: Path, frames: int | None) -> None:
    config, _ = options.load(["ltcr-cartpole-9-1"])
    check_frames(Namespace(run=reached(tmp_path, "step_000000400"), frames=frames), config)
    with pytest.raises(ConfigError, match="--frames: 390 is behind frame 400"):
        check_frames(Namespace(run=tmp_path, frames=390), config)


def test_a_task_that_ended_with_the_rollouts_under_way_is_not_past_its_frames(tmp_path: Path) -> None:
    config, _ = options.load(["a3c-pong", "--workers", "2", "--agent.rollout", "20"])
    run = reached(tmp_path, "pong/step_000000439")
    check_frames(Namespace(run=run, frames=400), config)
    with pytest.raises(ConfigError, match="--frames: 390 is behind frame 439"):
        check_frames(Namespace(run=run, frames=390), config)
