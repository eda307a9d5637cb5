"""A team on Atari of three goes on as two, and those as three again: memories of frames change hands, bit for bit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from atari_helpers import FINDS_TINY, TINY
from conftest import Runner
from same_run import bits, differences

from mpi_ltcr.archive import checkpoint
from mpi_ltcr.archive.segments import Shelf
from mpi_ltcr.archive.verification import verify_run
from mpi_ltcr.interfaces import State

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(600)]

PRESET = "small-ltcr-phoenix-9-1"


def load(run: Path, frames: int, name: str) -> State:
    """A file of a checkpoint, whole."""
    folder = checkpoint.step_folder(run / "checkpoints", frames)
    checkpoint.verify(folder)
    return Shelf(folder.parent).fetch(checkpoint.load_file(folder / name))


def agent(run: Path, frames: int, number: int) -> State:
    state: State = load(run, frames, checkpoint.rank_file(number))["agent"]
    return state


def leaves(state: State, *without: str) -> dict[str, Any]:
    return {place: bits(leaf) for place, leaf in checkpoint.flatten(state) if not place.startswith(without)}


def written(run: Path, frames: int) -> set[str]:
    """Segments of a checkpoint."""
    return set(checkpoint.read_manifest(checkpoint.step_folder(run / "checkpoints", frames))[checkpoint.SEGMENTS])


def inodes(run: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in (run / "checkpoints" / checkpoint.SEGMENTS).iterdir()}


def test_a_team_of_three_becomes_two_and_three_again_and_whoever_stays_keeps_its_replay(
    mpirun: Runner, tmp_path: Path
) -> None:
    run = tmp_path / "run"

    def go(ranks: int, *argv: str) -> None:
        done = mpirun(ranks, ["-m", "mpi_ltcr", *argv], timeout=200, env=FINDS_TINY)
        assert done.rc == 0, done.err

    go(3, "train", PRESET, *TINY, "--frames", "160", "--out", str(run))
    three = [agent(run, 160, number) for number in range(3)]
    public, files = leaves(load(run, 160, "memory.h5")), inodes(run)
    stayed = {name for name in written(run, 160) if not name.startswith("rank0001")}
    assert len(three[2]["replay"]["store"]["ring"]["segments"]) == 5, "the oldest rows have left"

    go(2, "resume", str(run), "--agents", "2", "--keep", "2,0", "--frames", "240")
    assert [leaves(agent(run, 160, n)) for n in (0, 1)] == [leaves(three[n]) for n in (2, 0)]
    assert leaves(load(run, 160, "memory.h5")) == public
    assert written(run, 160) == stayed
    new = written(run, 240) - stayed
    assert new
    assert all(name.endswith("-1.h5") for name in new)
    assert all(inodes(run)[name] == files[name] for name in written(run, 160)), "nothing was written again"
    assert_that_its_first_checkpoint_is_all_it_needs(mpirun, run, tmp_path)

    two = [agent(run, 240, number) for number in range(2)]
    fresh = tmp_path / "fresh"
    shutil.copytree(run, fresh)
    go(3, "resume", str(run), "--agents", "3", "--new-agents", "clone-best", "--frames", "320")
    assert [leaves(agent(run, 240, n)) for n in (0, 1)] == [leaves(one) for one in two]
    clone = leaves(agent(run, 240, 2)["replay"]["store"])
    assert clone in [leaves(one["replay"]["store"]) for one in two]
    go(3, "resume", str(fresh), "--agents", "3", "--frames", "320")
    assert agent(fresh, 240, 2)["replay"]["store"]["ring"]["added"] == 0
    assert agent(fresh, 320, 2)["replay"]["store"]["ring"]["added"] == 80

    for one in (run, fresh):
        assert [problem for _, problem in verify_run(one) if problem] == []
        assert json.loads((one / "status.json").read_text())["state"] == "completed"
        needed = written(one, 320) | written(one, 240)
        assert set(inodes(one)) == needed, "what nobody has any more is swept away"


def assert_that_its_first_checkpoint_is_all_it_needs(mpirun: Runner, run: Path, tmp_path: Path) -> None:
    """Resumed from there, with the memory M0 of every rank, it is the run that went on without an end."""
    cut = tmp_path / "cut"
    shutil.copytree(run, cut)
    shutil.rmtree(checkpoint.step_folder(cut / "checkpoints", 240))
    done = mpirun(2, ["-m", "mpi_ltcr", "resume", str(cut)], timeout=200, env=FINDS_TINY)
    assert done.rc == 0, done.err
    assert differences(run, cut) == []
