"""The students do learn: CartPole within 30 000 frames, alone and with a teammate, as the presets have it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mpi_ltcr.archive.reader import read_logs

pytestmark = [pytest.mark.mpi, pytest.mark.slow, pytest.mark.timeout(300)]

FRAMES = 12_000
GOOD = 190.0
"""Of 200: mean return of ten evaluations on end."""


@pytest.mark.parametrize(("preset", "ranks"), [("ltcr-cartpole-alone", 1), ("ltcr-cartpole-9-1", 2)])
def test_every_agent_learns_to_balance_the_pole(preset, ranks, mpirun, tmp_path: Path):
    out = tmp_path / "run"
    shorter = ["--frames", str(FRAMES), "--checkpoint.every", str(FRAMES), "--log.distributions_at", "[]"]
    done = mpirun(ranks, ["-m", "mpi_ltcr", "train", preset, *shorter, "--seed", "1", "--out", str(out)], timeout=280)
    assert done.rc == 0, done.err
    logs = read_logs(out)
    assert len(logs) == ranks
    for log in logs:
        returns = log.table("eval")["return"]
        assert returns[:5].mean() < 100  # it was not born with it
        assert np.convolve(returns, np.ones(10) / 10, mode="valid").max() >= GOOD, returns.tolist()
