"""Runs that earlier versions of this program have written, kept in `tests/data` as they wrote them.

format-1.tar.gz    the last version whose checkpoints were of format 1: train ltcr-cartpole-alone, 40 frames
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from conftest import ROOT, Runner, verb
from same_run import contents

from mpi_ltcr.archive import checkpoint, reader
from mpi_ltcr.archive.verification import verify_run

OLD = pytest.mark.fault("D35", "a run of an earlier version: its log is read, its checkpoint refused by its version")
REFUSED = f"step_000000040: format version 1, this program reads {checkpoint.FORMAT_VERSION}"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    shutil.unpack_archive(ROOT / "tests" / "data" / "format-1.tar.gz", tmp_path, filter="data")
    return tmp_path / "format-1"


@OLD
@pytest.mark.mpi
def test_resume_refuses_an_old_checkpoint_by_its_version_and_leaves_everything_as_it_was(
    run: Path, mpirun: Runner
) -> None:
    before = contents(run)
    done = mpirun(1, ["-m", "mpi_ltcr", "resume", str(run), "--frames", "80"])
    assert done.rc == 65
    told = f"{run / 'checkpoints'}: no whole checkpoint ({REFUSED}); start anew with mpi-ltcr train"
    assert done.err == f"mpi-ltcr: error: {told}\n"
    assert contents(run) == before


@OLD
@pytest.mark.parametrize("name", ["verify", "eval"])
def test_the_verbs_that_read_checkpoints_refuse_an_old_one_by_its_version(
    name: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = verb(name, str(run), capsys=capsys)
    assert code == 65
    assert REFUSED in out + err


@OLD
def test_an_old_log_is_sound_and_read_as_ever(run: Path) -> None:
    assert dict(verify_run(run))["logs/agent0000.h5"] == ""
    (log,) = reader.read_logs(run)
    assert log.config["frames"] == 40
    assert log.table("eval")["frames"].tolist() == [20, 40]
    assert log.table("events")["text"][0].startswith("attempt 1 on ")
