"""Which mpirun belongs to the MPI library that mpi4py is bound to, and what it must be told on this machine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from mpi4py import MPI

from mpi_ltcr.comm.node import cpus

OPEN_MPI, MPICH = "Open MPI", "MPICH"
NAMES = ("mpirun", "mpiexec")
SESSION = "PRTE_MCA_prte_local_tmpdir_base"
"""Tells Open MPI's mpirun in which folder to make its session's. By default that is the one for temporary files, where
an mpirun that was killed leaves what stops another with its process number ("listener thread failed to start")."""


class Launcher(NamedTuple):
    """A program that starts the ranks."""

    path: Path
    family: str
    """`OPEN_MPI` or `MPICH` (and what descends from it); empty: of neither."""


def library_family() -> str:
    """Of the library in use; MPI need not have been started."""
    return family_of(MPI.Get_library_version())


def library_path() -> Path | None:
    """The file of the library in use, where the system tells (Linux)."""
    maps = Path("/proc/self/maps")
    if not maps.is_file():
        return None
    loaded = re.findall(r"(/\S*/libmpi\S*\.so\S*)$", maps.read_text(), re.MULTILINE)
    return Path(loaded[0]) if loaded else None


def family_of(text: str) -> str:
    """Whose words these are: a library's version or a launcher's."""
    if re.search(r"open[ -]?mpi|openrte|prrte|prterun", text, re.IGNORECASE):
        return OPEN_MPI
    return MPICH if re.search(r"hydra|mpich|intel\(r\) mpi|mvapich", text, re.IGNORECASE) else ""


def candidates() -> list[Path]:
    """Launchers of this machine: beside the library, in this Python's environment, then along PATH; each once."""
    library = library_path()
    folders = [parent / "bin" for parent in library.parents[1:4]] if library else []
    folders += [Path(sys.prefix) / "bin", Path(sys.executable).parent]
    found = [folder / name for folder in folders for name in NAMES]
    found += [Path(path) for path in map(shutil.which, NAMES) if path]
    return list(dict.fromkeys(path for path in found if os.access(path, os.X_OK)))


def look_at(path: Path) -> Launcher:
    """Ask a launcher whose it is."""
    try:
        told = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.SubprocessError):
        return Launcher(path, "")
    return Launcher(path, family_of(told.stdout + told.stderr))


def find() -> Launcher | None:
    """The first launcher that belongs to the library in use."""
    family = library_family()
    return next((known for known in map(look_at, candidates()) if known.family == family), None)


def cores() -> int:
    """Cores that this process may use, each counted once however many threads it runs: Open MPI's slots."""
    known = set()
    for cpu in cpus():
        topology = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology")
        try:
            known.add((topology.joinpath("physical_package_id").read_text(), topology.joinpath("core_id").read_text()))
        except OSError:
            known.add((str(cpu), ""))
    return max(1, len(known))


def options(launcher: Launcher, ranks: int) -> list[str]:
    """What this launcher must be told to start so many ranks here, and nothing else."""
    crowded = ranks > cores() and "SLURM_JOB_ID" not in os.environ
    return ["-n", str(ranks), *(["--oversubscribe"] if launcher.family == OPEN_MPI and crowded else [])]


def variables(launcher: Launcher) -> dict[str, str]:
    """What must stand in its environment: Open MPI wants to hear twice that root may start a job."""
    if launcher.family == OPEN_MPI and os.geteuid() == 0:
        return {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return {}


@contextmanager
def own_session() -> Iterator[dict[str, str]]:
    """The variable that gives one mpirun a folder of its own for its session; the folder is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="mpi-ltcr-", ignore_cleanup_errors=True) as folder:
        yield {SESSION: folder}


def dead_sessions() -> list[Path]:
    """What killed mpiruns of Open MPI have left in the folder for temporary files, where the system tells (Linux)."""
    known = Path("/proc/self").exists()
    found = Path(tempfile.gettempdir()).glob("ompi.[0-9]*") if known else ()
    return sorted(path for path in found if not Path("/proc", path.suffix[1:]).exists())
