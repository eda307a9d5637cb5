"""Who sits on which rank decides where things are computed, and nothing else."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY

from mpi_ltcr.archive.checkpoint import flatten, load_file
from mpi_ltcr.archive.reader import read_logs
from mpi_ltcr.archive.schema import TABLES, WALL_COLUMNS, WALL_TABLES

pytestmark = pytest.mark.mpi

SCRIPT = str(Path(__file__).parent / "scripts" / "permuted.py")
ROOTS_TRAFFIC = {"bytes_sent", "bytes_received"}
"""Rank 0 receives the features and sends the sample, whoever plays there."""


def learned(out: Path) -> dict[str, str]:
    """A digest of all that each agent and M0 have become, and of all that was logged about it."""
    digests = {}
    for file in sorted((out / "checkpoints" / "step_000000400").glob("*.h5")):
        tree = load_file(file)
        tree.get("session", {}).pop("wall_s", None)
        tree.get("session", {}).pop("log_rows", None)
        for path, leaf in flatten(tree):
            raw = leaf.tobytes() if isinstance(leaf, np.ndarray) else str(leaf).encode()
            digests[f"{file.name}/{path}"] = hashlib.sha256(raw).hexdigest()
    for log in read_logs(out):
        for table in sorted(set(TABLES) - WALL_TABLES):
            for name, column in log.table(table).items():
                if name not in WALL_COLUMNS | ROOTS_TRAFFIC:
                    digests[f"{log.path.name}/{table}/{name}"] = hashlib.sha256(column.tobytes()).hexdigest()
    return digests


@pytest.mark.fault("D34", "the agents on other ranks: same bits")
@pytest.mark.parametrize(
    ("order", "overrides"),
    [
        ("1,0", ["--transfer.subset", "per_teacher", "--transfer.upload_probability", "0.5"]),
        ("1,2,0", ["--transfer.target", "mean", "--agents", "[{}, {hidden: [24]}, {torso: linear}]"]),
    ],
)
def test_permuting_the_ranks_permutes_the_results_and_changes_nothing_else(order, overrides, mpirun, tmp_path):
    size = len(order.split(","))
    runs = {"in order": ",".join(map(str, range(size))), "permuted": order}
    for name, ranks in runs.items():
        arguments = ["ltcr-cartpole-9-1", *TINY, *overrides, "--out", str(tmp_path / name.replace(" ", "-"))]
        done = mpirun(size, [SCRIPT, ranks, *arguments])
        assert done.rc == 0, done.err
    straight, permuted = learned(tmp_path / "in-order"), learned(tmp_path / "permuted")
    assert straight == permuted
    agents = [straight[f"rank{agent:04d}.h5/agent/weights"] for agent in range(size)]
    assert len(set(agents)) == size  # the agents themselves do differ
