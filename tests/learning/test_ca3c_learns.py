"""cA3C learns: two workers solve CartPole, a trained teacher saves steps, and a student of other actions is aligned.

Runs of one worker are the same to the last bit every time; those of two are not, so that their threshold has room.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ca3c_helpers import POLE, POLE3, TOYS, config_file
from conftest import Started

from mpi_ltcr.archive.reader import open_log

pytestmark = [pytest.mark.mpi, pytest.mark.slow, pytest.mark.timeout(900)]

LIMIT = 400
"""Seconds for a job of half a minute, on a busy machine."""
AGENT = {"torso": "mlp", "hidden": [64], "lstm": 32, "rollout": 20, "gae_lambda": 0.95, "reward_scale": 0.05}


def begin(
    folder: Path,
    name: str,
    frames: int,
    lr: float,
    task: dict[str, Any],
    seed: int = 1,
    workers: int = 1,
    backend: str = "eager",
) -> Started:
    """A run that is under way, of workers that share a rank with the server."""
    path = config_file(
        folder, f"{name}.yaml", frames=frames, seed=seed, workers=workers, server="shared", tasks=[task],
        agent={**AGENT, "lr": lr, "backend": backend}, checkpoint={"every": 10**6},
    )  # fmt: skip
    argv = ["-m", "mpi_ltcr", "train", "--config", str(path), "--out", name]
    return Started(workers if workers > 1 else 0, argv, folder, TOYS)


def ended(*jobs: Started) -> None:
    try:
        for job in jobs:
            done = job.finish(LIMIT)
            assert done.rc == 0, done.err
    finally:
        for job in jobs:
            if job.process.poll() is None:
                job.kill()


def returns_of(run: Path) -> tuple[np.ndarray, np.ndarray]:
    """T at the end of each training episode, and its return."""
    returns = open_log(run / "logs" / "server0000.h5").table("returns")
    return returns["frames"], returns["return"]


def steps_to(run: Path, value: float, episodes: int) -> float:
    """T at which so many episodes in a row first had a mean return of `value`; infinite if they never had."""
    frames, returns = returns_of(run)
    means = np.convolve(returns, np.ones(episodes) / episodes, "valid")
    reached = np.flatnonzero(means >= value)
    return float(frames[reached[0] + episodes - 1]) if len(reached) else np.inf


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("learning")


@pytest.fixture(scope="module")
def expert(folder: Path) -> Path:
    """One worker on CartPole: the same teacher every time."""
    ended(begin(folder, "expert", 24_000, 3e-3, POLE, backend="fused"))
    return folder / "expert"


def test_two_asynchronous_workers_solve_cartpole(folder):
    """A random policy holds the pole for some 22 frames; 200 is the most. What comes later may sway: 138 to 200."""
    ended(begin(folder, "two", 32_000, 3e-3, POLE, workers=2))
    _, returns = returns_of(folder / "two")
    assert np.mean(returns[:50]) < 60
    assert steps_to(folder / "two", 150, 100) < 32_000


def test_four_games_in_a_worker_learn_cartpole_in_about_as_many_steps_as_one(folder):
    """With a quarter of the updates, so at twice the learning rate. Seed by seed 1.5, 1.2 and 1.4 times the steps."""
    several = {**POLE, "env": {**POLE["env"], "copies": 4}}
    needed = {}
    for seed in (1, 2):
        four = begin(folder, f"four{seed}", 9000, 6e-3, several, seed=seed, backend="fused")
        one = begin(folder, f"one{seed}", 6000, 3e-3, POLE, seed=seed, backend="fused")
        ended(four, one)
        needed[seed] = [steps_to(folder / f"{name}{seed}", 100, 20) for name in ("four", "one")]
    assert all(four < 2 * one for four, one in needed.values()), needed
    assert all(one < 6000 for _, one in needed.values()), needed


def test_a_trained_teacher_saves_most_of_the_steps_to_a_threshold_with_each_of_three_seeds(expert, folder):
    """CDRL Fig. 3b: into the policy layer, beside the GAE interaction. At this learning rate it takes 6000 alone."""
    given = {"task": "pole", "checkpoint": str(expert), "layer": "policy", "align": "identity"}
    needed = {}
    for seed in (1, 2, 3):
        taught = begin(folder, f"taught{seed}", 4500, 1e-3, {**POLE, "teachers": [given]}, seed=seed)
        alone = begin(folder, f"alone{seed}", 4500, 1e-3, POLE, seed=seed)
        ended(taught, alone)
        needed[seed] = [steps_to(folder / f"{name}{seed}", 100, 10) for name in ("taught", "alone")]
    for taught, alone in needed.values():
        assert taught < 3500, needed
        assert taught < alone / 1.4, needed


def test_a_teacher_of_two_actions_is_aligned_with_a_student_of_three_and_the_alignment_loss_falls(expert, folder):
    given = {"task": "pole", "checkpoint": str(expert), "t1": 4000, "t2": 6000}
    ended(begin(folder, "aligned", 8000, 3e-3, {**POLE3, "teachers": [given]}))
    rollouts = open_log(folder / "aligned" / "logs" / "agent0000.h5").table("rollouts")
    aligning = rollouts["frames"] >= 4000
    losses, entropies = rollouts["align_loss"][aligning], rollouts["entropy"][aligning]
    assert np.isfinite(losses).all()
    assert np.isnan(rollouts["align_loss"][~aligning]).all()
    eighth = len(losses) // 8
    assert losses[-4 * eighth :].mean() < 0.7 * losses[:eighth].mean()
    uniform = np.log(3) - entropies  # the loss of an F that knows nothing of the student
    assert losses[-4 * eighth :].mean() < 0.8 * uniform[-4 * eighth :].mean()
    assert np.isfinite(rollouts["distill_loss"][rollouts["frames"] >= 6000]).all()
    assert steps_to(folder / "aligned", 100, 10) < 8000
