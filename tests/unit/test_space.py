"""A disk that is too small is told of in one line with both numbers: before a run, and before each checkpoint."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mpi_ltcr import options
from mpi_ltcr.archive import checkpoint
from mpi_ltcr.archive.space import free_bytes, require_space
from mpi_ltcr.programs.needs import run_bytes


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch):
    """`disk(n)`: so many bytes are free."""
    return lambda free: monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=free, f_frsize=1))


def test_what_is_free_is_asked_of_the_folder_that_is_there(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "not" / "yet" / "there") == pytest.approx(free_bytes(tmp_path), rel=0.1)


def test_both_numbers_are_told(disk, tmp_path: Path) -> None:
    disk(999)
    require_space(tmp_path, 999, "the run")
    with pytest.raises(OSError, match="the run needs 1000 bytes, 999 are free at"):
        require_space(tmp_path, 1000, "the run")


def test_a_checkpoint_is_not_begun_where_one_like_the_last_does_not_fit(disk, tmp_path: Path) -> None:
    checkpoint.check_space(tmp_path)
    draft = checkpoint.begin(tmp_path, 100)
    entry = checkpoint.write_file(draft, checkpoint.rank_file(0), {"weights": np.zeros(10_000)})
    checkpoint.commit(tmp_path, 100, [entry], {"world_size": 1})
    assert entry.bytes > 80_000
    disk(2 * entry.bytes)
    checkpoint.check_space(tmp_path)
    disk(entry.bytes)
    with pytest.raises(OSError, match=f"a checkpoint needs .* bytes, {entry.bytes} are free"):
        checkpoint.check_space(tmp_path)


def test_a_run_comes_to_what_its_shapes_say() -> None:
    """Counted by hand: weights of two networks and two Adams, (s, a, r, discount, s') rows, three copies of each."""
    command = ["ltcr-cartpole-9-1", "--agent.hidden", "[16]", "--agent.replay_capacity", "1000", "--frames", "1000"]
    config, _ = options.load([*command, "--transfer.memory_size", "500", "--agent.warmup", "100"])
    parameters = 4 * 16 + 16 + 16 * 2 * 51 + 2 * 51
    replay, memory = 1000 * (2 * 4 * 4 + 8 + 4 + 4), 500 * (4 * 4 + 8)
    logs = 2 * 8 * 32 * (1000 // 10 + 1000 // 100)
    assert run_bytes(config, 2) == pytest.approx(3 * (2 * (24 * parameters + replay) + memory) + logs, rel=0.1)


def test_cA3C_counts_each_task() -> None:
    one, two = (options.load([name])[0] for name in ("small-a3c-pong", "small-cdrl-collaborative"))
    assert 0 < run_bytes(one, 9) < run_bytes(two, 4)
