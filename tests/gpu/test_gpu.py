"""What only a GPU can show, run by tests/gpu.sh. With GPU_TEST_DEVICE=cpu the same lines run on a CPU: the tests
themselves are tested where there is no GPU."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Runner

from mpi_ltcr import devices
from mpi_ltcr.agents.c51 import C51Agent
from mpi_ltcr.archive import checkpoint, reader
from mpi_ltcr.archive.verification import verify_run
from mpi_ltcr.assembly_c51 import build_c51
from mpi_ltcr.config import C51Config, TransferConfig
from mpi_ltcr.interfaces import EnvSpec, Features, Lesson, Transition
from mpi_ltcr.seeds import SeedTree

CHOICE = os.environ.get("GPU_TEST_DEVICE", "cuda")

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(CHOICE == "cuda" and not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]

SPEC = EnvSpec((4, 84, 84), np.dtype(np.uint8), 18, 1 / 255, stacked=True)
SETTINGS: dict[str, Any] = {"torso": "nature", "vmin": -10.0, "vmax": 10.0, "replay_capacity": 200, "warmup": 32}


def agent(device: torch.device, precision: str = "fp32") -> C51Agent:
    """One that has seen a hundred frames of noise, the same on every device."""
    made = build_c51(C51Config(**SETTINGS), SPEC, SeedTree(1), 0, device, 0.001, TransferConfig(), precision)
    rng = np.random.default_rng(0)
    film = rng.integers(256, size=(104, 84, 84), dtype=np.uint8)
    for t in range(100):
        made.observe(Transition(film[t : t + 4], int(rng.integers(18)), float(rng.normal()), 0.99, film[t + 1 : t + 5]))
    return made


def features() -> Features:
    rng = np.random.default_rng(1)
    return Features(rng.integers(256, size=(32, 4, 84, 84), dtype=np.uint8), rng.integers(18, size=32))


@pytest.fixture
def device() -> torch.device:
    return devices.torch_device(CHOICE, 0)


def test_an_update_gives_the_numbers_of_the_cpu(device: torch.device) -> None:
    here, there = agent(torch.device("cpu")), agent(device)
    lesson = Lesson(features(), np.full((32, 51), 1 / 51, np.float32), np.ones(32, np.int64))
    np.testing.assert_allclose(here.answer(features()), there.answer(features()), atol=1e-4)
    for _ in range(3):
        one, two = here.revisit(), there.revisit()
        assert one["td_loss"] == pytest.approx(two["td_loss"], rel=1e-3)
        assert one["revisit_grad_norm"] == pytest.approx(two["revisit_grad_norm"], rel=2e-2)
        assert here.mimic(lesson)["distill_loss"] == pytest.approx(
            there.mimic(lesson)["distill_loss"], rel=2e-2, abs=1e-5
        )
    assert there.flat.values.device.type == device.type


def test_what_is_copied_is_what_arrives_however_soon_its_source_changes(device: torch.device) -> None:
    """A copy that does not wait must not see the array's next content."""
    made, array = agent(device), np.zeros((32, 4, 84, 84), np.uint8)
    sums = []
    for value in range(20):
        array[...] = value
        sums.append(made._tensor(array.copy()).long().sum())
    assert [int(total) for total in sums] == [value * array.size for value in range(20)]


def test_bf16_is_near_fp32_and_learns(device: torch.device) -> None:
    if not devices.has_bf16(device):
        pytest.skip(f"{devices.device_name(device)} has no bf16")
    plain, half = agent(device), agent(device, "bf16")
    np.testing.assert_allclose(plain.answer(features()), half.answer(features()), atol=2e-3)
    target = np.eye(51, dtype=np.float32)[np.arange(32)]
    losses = [half.mimic(Lesson(features(), target, np.ones(32, np.int64)))["distill_loss"] for _ in range(60)]
    assert losses[-1] < 0.7 * losses[0]
    assert half.flat.values.dtype == half.flat.grads.dtype == torch.float32


def test_a_saved_agent_goes_on_on_either_device(device: torch.device) -> None:
    first, second = agent(device), agent(torch.device("cpu"))
    first.revisit()
    second.load_state(first.state())
    np.testing.assert_allclose(first.answer(features()), second.answer(features()), atol=1e-4)


def test_two_ranks_train_on_atari_and_a_resumed_run_completes(mpirun: Runner, tmp_path: Path) -> None:
    """On one GPU they share it, with a warning; on two each has its own."""
    run = tmp_path / "run"
    options = ["--runtime.device", CHOICE, "--frames", "800", "--eval.every", "800", "--checkpoint.every", "400"]
    limits = ["--env.kwargs.max_steps", "200", "--log.probe_every", "400"]
    argv = ["-m", "mpi_ltcr", "train", "small-ltcr-phoenix-9-1", *options, *limits, "--out", str(run)]
    done = mpirun(2, argv, timeout=300)
    assert done.rc == 0, done.err
    if CHOICE == "cuda":
        assert done.err.count("mpi-ltcr: warning: runtime.device: 2 ranks") == (torch.cuda.device_count() < 2)
        assert "cuda:0" in done.err
    assert mpirun(2, ["-m", "mpi_ltcr", "resume", str(run), "--frames", "1200"], timeout=300).rc == 0
    assert json.loads((run / "status.json").read_text())["state"] == "completed"
    assert [problem for _, problem in verify_run(run) if problem] == []
    for log in reader.read_logs(run):
        assert np.isfinite(log.table("train")["td_loss"][10:]).all()
    assert checkpoint.newest_whole(run / "checkpoints")[0].name == "step_000001200"
