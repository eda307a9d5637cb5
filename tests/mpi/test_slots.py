"""The ratio Revisit : Digest, counted where it happens."""

from __future__ import annotations

import pytest

from mpi_ltcr.archive import checkpoint

pytestmark = pytest.mark.mpi


@pytest.mark.parametrize(
    ("preset", "revisits", "digests"), [("ltcr-cartpole-9-1", 90, 10), ("ltcr-cartpole-alone", 100, 0)]
)
def test_in_a_real_run_a_hundred_slots_are_that_many_updates(preset, revisits, digests, run_tiny, tmp_path):
    out = tmp_path / "run"
    slots = [
        "--frames",
        "100",
        "--agent.warmup",
        "0",
        "--agent.batch",
        "10",
        "--transfer.start",
        "0",
        "--transfer.digest_adam",
        "own",
    ]
    done = run_tiny(2, preset, out, *slots)
    assert done.rc == 0, done.err
    for rank in range(2):
        agent = checkpoint.load_file(out / "checkpoints" / "step_000000100" / f"rank{rank:04d}.h5")["agent"]
        assert (agent["revisits"], agent["digests"]) == (revisits, digests)
        assert agent["revisit_stepper"]["steps"] == revisits
        assert agent["digest_stepper"]["steps"] == digests
