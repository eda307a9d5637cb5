"""A team of four goes on as two of them, and those as three: states on their new seats, logs from where they were."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import TINY
from same_run import contents

from mpi_ltcr.archive import checkpoint
from mpi_ltcr.archive.reader import read_logs
from mpi_ltcr.archive.verification import verify_run

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(300)]

UNLIKE = "[{}, {hidden: [8]}, {hidden: [12]}, {hidden: [8]}]"


def states(run: Path, frames: int) -> list[dict]:
    """Of all agents of a checkpoint."""
    folder = checkpoint.step_folder(run / "checkpoints", frames)
    size = checkpoint.verify(folder)["world_size"]
    return [checkpoint.load_file(folder / checkpoint.rank_file(agent)) for agent in range(size)]


def leaves(state: dict) -> dict:
    return {name: np.asarray(leaf).tolist() for name, leaf in checkpoint.flatten(state)}


def rows(run: Path, agent: int) -> list[tuple[int, float]]:
    """Frames and TD loss of an agent's rounds."""
    train = next(log for log in read_logs(run) if log.agent == agent).table("train")
    return list(zip(train["frames"].tolist(), train["td_loss"].tolist(), strict=True))


def test_a_team_of_four_becomes_two_and_then_three(mpirun, tmp_path):
    run = tmp_path / "run"
    argv = ["-m", "mpi_ltcr", "train", "ltcr-cartpole-9-1", *TINY, "--agents", UNLIKE, "--frames", "200"]
    assert mpirun(4, [*argv, "--out", str(run)], timeout=120).rc == 0
    four, rows_of_two = states(run, 200), rows(run, 2)
    memory = (run / "checkpoints" / "step_000000200" / "memory.h5").read_bytes()

    resume = ["-m", "mpi_ltcr", "resume", str(run), "--agents"]
    done = mpirun(2, [*resume, "2", "--keep", "0,2", "--frames", "300"], timeout=120)
    assert done.rc == 0, done.err
    two = states(run, 200)
    assert leaves(two[0]["agent"]) == leaves(four[0]["agent"])
    assert leaves(two[0]["loop"]) == leaves(four[0]["loop"]), "who stays on his seat goes on exactly"
    moved, before = leaves(two[1]["agent"]), leaves(four[2]["agent"])
    assert moved == before
    assert two[1]["loop"]["episode"] == four[2]["loop"]["episode"] + 1
    assert (run / "checkpoints" / "step_000000200" / "memory.h5").read_bytes() == memory
    assert yaml.safe_load((run / "config.yaml").read_text())["agents"] == [{}, {"hidden": [12]}]
    assert [log.agent for log in read_logs(run)] == [0, 1]
    assert len(rows_of_two) > 10
    assert rows(run, 1)[: len(rows_of_two)] == rows_of_two
    assert [frames for frames, _ in rows(run, 1)] == sorted({frames for frames, _ in rows(run, 1)})
    assert len(read_logs(run / "teams" / "until-000000200-of-4")) == 4

    done = mpirun(3, [*resume, "3", "--new-agents", "clone-best", "--frames", "400"], timeout=120)
    assert done.rc == 0, done.err
    three = states(run, 300)
    assert len(three) == len(states(run, 400)) == 3
    model = next(k for k in (0, 1) if leaves(three[2]["agent"])["weights"] == leaves(three[k]["agent"])["weights"])
    assert leaves(three[2]["agent"]["explore_rng"]) != leaves(three[model]["agent"]["explore_rng"])
    assert rows(run, 2)[0][0] == 310, "its log begins where it came"
    assert json.loads((run / "status.json").read_text())["state"] == "completed"
    assert [problem for _, problem in verify_run(run) if problem] == []


@pytest.mark.fault("D36", "resumed on another number of ranks: refused with the right one")
def test_a_team_of_another_size_is_refused_unless_it_is_asked_for(mpirun, run_tiny, tmp_path):
    run = tmp_path / "run"
    assert run_tiny(2, "ltcr-cartpole-9-1", run, "--frames", "100").rc == 0
    before = contents(run)
    done = mpirun(3, ["-m", "mpi_ltcr", "resume", str(run)])
    assert done.rc == 65
    assert contents(run) == before
    assert "is of 2 agents, not of 3; use mpirun -n 2, or change the team: resume --agents 3" in done.err
