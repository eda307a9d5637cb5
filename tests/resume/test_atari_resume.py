"""A whole Atari job of two agents that teach each other: killed after its segments and before their manifest, it goes
on bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from atari_helpers import FINDS_TINY, TINY
from conftest import Finished, Starter
from same_run import differences

from mpi_ltcr.archive import checkpoint, reader
from mpi_ltcr.archive.verification import verify_run

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(300)]


def train(start: Starter, out: Path, env: dict[str, str], *options: str) -> Finished:
    argv = ["-m", "mpi_ltcr", "train", "small-ltcr-phoenix-9-1", *TINY, "--out", str(out), *options]
    job: Finished = start(2, argv, env).finish(120)
    return job


@pytest.fixture
def env() -> dict[str, str]:
    return FINDS_TINY


@pytest.mark.fault("D32", "killed between segments and manifest, and resumed: same bits (LTCR on Atari)")
def test_killed_between_segments_and_manifest_a_team_on_atari_goes_on_bit_for_bit(
    start: Starter, env: dict[str, str], tmp_path: Path
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    done = train(start, whole, env)
    assert done.rc == 0, done.err
    looks_like_an_atari_run(whole)

    mortal = {**env, "TINY_ATARI_KILL": str(tmp_path / "killed")}
    assert train(start, cut, mortal).rc != 0
    (folder,) = checkpoint.folders(cut / "checkpoints")
    listed = set(checkpoint.read_manifest(folder)[checkpoint.SEGMENTS])
    there = {path.name for path in (cut / "checkpoints" / checkpoint.SEGMENTS).glob("*.h5")}
    assert listed < there, "nothing was written between the two checkpoints"

    done = start(2, ["-m", "mpi_ltcr", "resume", str(cut)], mortal).finish(120)
    assert done.rc == 0, done.err
    assert json.loads((cut / "status.json").read_text())["attempt"] == 2
    assert differences(whole, cut) == []
    assert [problem for _, problem in verify_run(cut) if problem] == []


def looks_like_an_atari_run(run: Path) -> None:
    """Its segments, its scores by life and by game, its traffic."""
    for folder in checkpoint.folders(run / "checkpoints"):
        names = checkpoint.read_manifest(folder)[checkpoint.SEGMENTS]
        assert {name.split("-")[0] for name in names} == {"rank0000", "rank0001", "memory"}
    on_disk = {path.name for path in (run / "checkpoints" / checkpoint.SEGMENTS).iterdir()}
    assert "rank0000-000000.h5" not in on_disk  # those rows have left
    for log in reader.read_logs(run):
        games, lives = log.table("episodes"), log.table("lives")
        assert len(games["frames"]) == 3
        for table, evaluation in ((games, 0), (log.table("eval"), 1)):
            mine = {name: column[lives["evaluation"] == evaluation] for name, column in lives.items()}
            assert mine["return"].sum() == table["return"].sum()
            assert mine["length"].sum() == table["length"].sum()
            assert len(mine["life"]) == table["lives"].sum()
        exchange: dict[str, Any] = log.table("exchange")
        assert (exchange["bytes_received"] < 310_000).all()
        assert exchange["demonstrations"][1:].tolist() == [8] * 5
        assert np.isfinite(log.table("train")["td_loss"]).all()


def test_a_replay_larger_than_the_memory_is_refused_in_one_line(
    start: Starter, env: dict[str, str], tmp_path: Path
) -> None:
    done = train(start, tmp_path / "run", env, "--agent.replay_capacity", "3000000000")
    assert done.rc == 2
    lines = [line for line in done.err.splitlines() if "mpi-ltcr" in line]
    assert len(lines) == 1
    assert lines[0].startswith("mpi-ltcr: error: agent.replay_capacity: 3000000000 transitions")
    assert "bytes for 2 agent(s) on this node" in lines[0]
    assert not (tmp_path / "run").exists()
