"""Sizes that nobody thinks of: they run, or are ended by name."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from conftest import TINY, Finished, Starter
from fault_report import LARGE

from mpi_ltcr.archive.reader import read_logs
from mpi_ltcr.archive.verification import verify_run

pytestmark = [
    pytest.mark.mpi,
    pytest.mark.timeout(600),
    LARGE,
]

PRESET = "ltcr-cartpole-9-1"
PATH = os.pathsep.join([str(Path(__file__).parent / "scripts"), *filter(None, [os.environ.get("PYTHONPATH")])])
NO_DUMPS = ("--log.distributions_at", "[]")


def train(start: Starter, run: Path, ranks: int, preset: str, *options: str) -> Finished:
    argv = ["-m", "mpi_ltcr", "train", preset, *TINY, *options, "--out", str(run)]
    return start(ranks, argv, {"PYTHONPATH": PATH}).finish(timeout=500)


CASES = {
    "two atoms": (2, ("--agent.atoms", "2")),
    "1001 atoms": (2, ("--agent.atoms", "1001", *NO_DUMPS)),
    "a million numbers to see, a thousand actions": (
        2,
        ("--env.id", "extreme:Wide-v0", "--agent.hidden", "[2]", "--agent.replay_capacity", "30", "--agent.batch", "4",
         "--agent.warmup", "20", "--transfer.memory_size", "30", "--transfer.demonstrations", "4", "--frames", "60",
         "--transfer.start", "20", "--checkpoint.every", "60", "--eval.every", "60", "--log.probe_size", "4",
         *NO_DUMPS),
    ),
    "64 ranks": (64, ("--frames", "100", *NO_DUMPS)),
}  # fmt: skip


@pytest.mark.fault("E41", "extreme sizes: 2 and 1001 atoms, 10^6 numbers to see, 1000 actions, 64 ranks")
@pytest.mark.parametrize("case", CASES)
def test_extreme_sizes_train(case: str, start: Starter, tmp_path: Path) -> None:
    ranks, options = CASES[case]
    done = train(start, tmp_path / "run", ranks, PRESET, *options, "--runtime.patience_s", "400")
    assert done.rc == 0, done.err
    assert [problem for _, problem in verify_run(tmp_path / "run") if problem] == []
    assert len(read_logs(tmp_path / "run")) == ranks
    assert all((log.table("exchange")["demonstrations"] > 0).any() for log in read_logs(tmp_path / "run"))


@pytest.mark.fault("E42", "unlike networks, learners and devices in one team")
def test_an_unlike_team_trains_each_on_the_device_that_was_asked_for(start: Starter, tmp_path: Path) -> None:
    agents = "[{}, {kind: actor_critic, device: cpu}, {returns: quantiles, hidden: [8, 8], device: auto}]"
    done = train(start, tmp_path / "run", 3, PRESET, "--transfer.lesson", "policy", "--agents", agents)
    assert done.rc == 0, done.err
    assert [problem for _, problem in verify_run(tmp_path / "run") if problem] == []


@pytest.mark.fault("E38", "episodes of one step")
def test_episodes_of_one_step_are_played(start: Starter, tmp_path: Path) -> None:
    done = train(start, tmp_path / "run", 2, PRESET, "--env.id", "extreme:Short-v0")
    assert done.rc == 0, done.err
    assert [set(log.table("episodes")["length"]) for log in read_logs(tmp_path / "run")] == [{1}, {1}]


@pytest.mark.fault("E38", "an episode without end: its evaluation is ended, and named")
def test_an_evaluation_without_end_is_ended_by_the_watchdog(start: Starter, tmp_path: Path) -> None:
    done = train(start, tmp_path / "run", 2, PRESET, "--env.id", "extreme:Endless-v0", "--runtime.patience_s", "5")
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert (done.rc, status["state"], status["exit_code"]) == (75, "failed", 75), done.err
    assert "evaluate" in status["error"]
