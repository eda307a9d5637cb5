"""What a job that meets a loss that is not finite leaves in crash/ to be looked at."""

from __future__ import annotations

import os
import subprocess
import sys

import h5py
import numpy as np
from conftest import TINY, faulty


def test_a_job_keeps_the_batch_whose_loss_was_not_finite(tmp_path):
    variables = faulty("nan-loss:revisit:0:100", tmp_path)
    preset = ["ltcr-cartpole-alone", "--out", str(tmp_path / "run"), *TINY, "--env.id", "faulty:Faulty-v0"]
    command = [sys.executable, "-m", "mpi_ltcr", "train", *preset]
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, timeout=60)
    assert done.returncode == 70
    kept = tmp_path / "run" / "crash" / "attempt1-rank0000.h5"
    assert f"mpi-ltcr: the batch is kept in {kept}\n" in done.stderr
    with h5py.File(kept) as file:
        assert file["batch/obs"].shape == (16, 4)
        assert np.isnan(file["batch/reward"][()]).all()
