"""A file is the old one or the new one, whatever happens while it is written."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from mpi_ltcr.archive import atomic


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_written_file_replaces_the_old_one_and_leaves_no_temporary(tmp_path: Path) -> None:
    atomic.write_text(tmp_path / "a", "old")
    atomic.write_text(tmp_path / "a", "ü new")
    assert (tmp_path / "a").read_text(encoding="utf-8") == "ü new"
    assert names(tmp_path) == ["a"]


def test_a_reader_that_has_the_old_file_open_goes_on_reading_it(tmp_path: Path) -> None:
    atomic.write_hdf5(tmp_path / "log.h5", lambda file: file.update(x=np.arange(3)))
    with h5py.File(tmp_path / "log.h5", "r") as reader:
        atomic.write_hdf5(tmp_path / "log.h5", lambda file: file.update(x=np.arange(9)))
        assert reader["x"][:].tolist() == [0, 1, 2]
    with h5py.File(tmp_path / "log.h5", "r") as reader:
        assert len(reader["x"]) == 9


def test_a_failing_writer_leaves_the_old_file_and_no_temporary(tmp_path: Path) -> None:
    def fill(file: h5py.File) -> None:
        file["half"] = np.arange(1000)
        raise OSError(errno.ENOSPC, "No space left on device")

    atomic.write_hdf5(tmp_path / "log.h5", lambda file: file.update(x=np.arange(3)))
    before = (tmp_path / "log.h5").read_bytes()
    with pytest.raises(OSError, match="No space"):
        atomic.write_hdf5(tmp_path / "log.h5", fill)
    assert (tmp_path / "log.h5").read_bytes() == before
    assert names(tmp_path) == ["log.h5"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_disk_that_fails_at_the_last_step_leaves_the_old_file_and_no_temporary(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    atomic.write_json(tmp_path / "status.json", {"state": "running"})
    monkeypatch.setattr(os, call, broken)
    with pytest.raises(OSError, match="Input/output"):
        atomic.write_json(tmp_path / "status.json", {"state": "completed"})
    monkeypatch.undo()
    assert "running" in (tmp_path / "status.json").read_text()
    assert names(tmp_path) == ["status.json"]


def test_the_file_and_then_its_folder_are_synced_around_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tape: list[str] = []
    fsync, replace = os.fsync, os.replace

    def note_fsync(descriptor: int) -> None:
        tape.append("fsync " + Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    def note_replace(source: Path, target: Path) -> None:
        tape.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    atomic.write_text(tmp_path / "a", "text")
    assert tape == [f"fsync .a.{os.getpid()}.tmp", "rename", f"fsync {tmp_path.name}"]


def test_a_long_file_makes_headway_on_its_way_to_the_disk_and_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signs: list[int] = []
    monkeypatch.setattr(atomic, "STRIDE", 1000)
    monkeypatch.setattr(atomic.headway, "made", lambda: signs.append(1))
    atomic.write_hdf5(tmp_path / "a.h5", lambda file: file.update(x=np.zeros(10_000, np.uint8)))
    assert len(signs) >= 10
    signs.clear()
    atomic.write_sealed(tmp_path / "b.h5", memoryview(bytes(10_000)))
    assert len(signs) == 10
    signs.clear()
    (tmp_path / "c").write_bytes(bytes(5 << 20))
    atomic.sha256(tmp_path / "c")
    assert len(signs) == 5


def test_a_process_killed_while_it_writes_leaves_the_old_file(tmp_path: Path) -> None:
    atomic.write_hdf5(tmp_path / "log.h5", lambda file: file.update(x=np.arange(3)))
    script = """
import os, signal, sys
from pathlib import Path
import numpy as np
from mpi_ltcr.archive import atomic
def fill(file):
    file["x"] = np.arange(10**5)
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
atomic.write_hdf5(Path(sys.argv[1]), fill)
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "log.h5")], check=False, timeout=30)
    assert done.returncode == -9
    with h5py.File(tmp_path / "log.h5", "r") as file:
        assert file["x"][:].tolist() == [0, 1, 2]


def test_the_hash_is_sha256_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    assert atomic.sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
