"""The small twins of CDRL's protocols, end to end on real Atari games under mpirun, for a few frames each."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from ca3c_helpers import saved

from mpi_ltcr.archive import checkpoint
from mpi_ltcr.archive.reader import open_log
from mpi_ltcr.archive.verification import verify_run

pytestmark = [pytest.mark.mpi, pytest.mark.slow, pytest.mark.timeout(900)]

LIMIT = 250


@pytest.fixture
def train(start: Any, tmp_path: Path) -> Callable[..., Any]:
    """`train(ranks, preset, *options)` begins a run in runs/PRESET, where other presets look for it; `()` waits."""

    def begin(ranks: int, preset: str, *options: str) -> Callable[[], Path]:
        out = tmp_path / "runs" / preset
        argv = ["-m", "mpi_ltcr", "train", preset, "--out", f"runs/{preset}", *options]
        job = start(ranks, argv)

        def finish() -> Path:
            done = job.finish(LIMIT)
            assert done.rc == 0, done.err
            assert json.loads((out / "status.json").read_text())["state"] == "completed"
            assert [problem for _, problem in verify_run(out) if problem] == []
            return out

        return finish

    return begin


def steps_of(run: Path, task: str) -> dict[str, int]:
    """Adam steps of each kind of gradient."""
    return {kind: adam["steps"] for kind, adam in saved(run, task)["store"]["adams"].items()}


def test_the_collaborative_preset_trains_both_games_and_aligns_from_t1_on(train):
    run = train(4, "small-cdrl-collaborative", "--frames", "640")()
    for task, number in (("pong", 0), ("bowling", 1)):
        assert 640 <= saved(run, task)["server"]["frames"] < 660
        pushes = open_log(run / "logs" / f"server{number:04d}.h5").table("pushes")
        assert pushes["frames"].tolist() == np.cumsum(pushes["steps"]).tolist()
    rollouts = open_log(run / "logs" / "agent0003.h5").table("rollouts")
    aligned = np.isfinite(rollouts["align_loss"])
    assert aligned.tolist() == (rollouts["frames"] >= 600).tolist()  # T1 of the preset; T2 is 800
    assert np.isnan(rollouts["distill_loss"]).all()
    assert steps_of(run, "bowling") == {"rl": len(aligned), "distill": 0, "align0": aligned.sum()}
    assert set(steps_of(run, "pong")) == {"rl", "distill"}
    assert saved(run, "bowling", "rank0003.h5")["games"]["0"]["actions"].max() < 6


def test_the_chain_of_offline_alignment_and_the_other_certificated_presets_train(train, tmp_path):
    """Two experts of a few frames, F between them from their logits, then the students of Fig. 6a, 6c, 4a and 3b."""
    experts = [train(0, f"small-a3c-{game}", "--frames", "60", "--server", "shared") for game in ("pong", "bowling")]
    pong, _ = (finish() for finish in experts)
    options = ["--frames", "120", "--batch", "32", "--epochs", "2", "--lr", "1e-3"]
    offline = train(0, "small-cdrl-offline-align", *options)()
    with h5py.File(offline / "logits.h5") as file:
        assert {name: file[name].shape for name in file} == {"teacher": (120, 6), "student": (120, 6)}
        assert all(file[name][...].std() > 0 for name in file)
    (folder,) = checkpoint.folders(offline / "checkpoints")
    alignment = checkpoint.load_file(folder / "alignment.h5")
    assert len(alignment["losses"]) == 3
    assert min(alignment["losses"]) < alignment["losses"][0]

    students = [
        train(2, "small-cdrl-offline", "--frames", "60"),
        train(0, "small-cdrl-online-2", "--frames", "260", "--server", "shared"),
    ]
    one, two = (finish() for finish in students)
    version = saved(one, "bowling")["server"]["version"]
    assert steps_of(one, "bowling") == {"rl": version, "distill": version}  # F is frozen
    kinds = steps_of(two, "bowling")
    assert kinds["rl"] > kinds["align0"] > kinds["distill"] > 0  # T1 100, T2 200

    students = [
        train(0, "small-cdrl-kd-policy", "--frames", "40", "--server", "shared"),
        train(0, "small-cdrl-kd-gae", "--frames", "40", "--server", "shared"),
    ]
    for finish, task in zip(students, ("bowling", "student"), strict=True):
        run = finish()
        version = saved(run, task)["server"]["version"]
        assert steps_of(run, task) == {"rl": version, "distill": version}
    assert saved(pong, "pong")["server"]["frames"] < 80  # nobody has written into a teacher's run
