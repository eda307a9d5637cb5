"""What the launcher tells through the environment, before MPI starts. No MPI in here: errors must print only once."""

from __future__ import annotations

import os
import time

RANK_VARIABLES = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK")
SIZE_VARIABLES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE")


def _first(names: tuple[str, ...], default: int) -> int:
    values = (os.environ.get(name, "") for name in names)
    return next((int(value) for value in values if value.isdigit()), default)


def _in_srun_step() -> bool:
    """A task of srun, and not the batch script itself, which has SLURM_PROCID too."""
    return os.environ.get("SLURM_STEP_NUM_TASKS", "").isdigit()


def rank() -> int:
    """This process's number as the launcher says it; 0 where there is no launcher."""
    return _first((*RANK_VARIABLES, "SLURM_PROCID") if _in_srun_step() else RANK_VARIABLES, 0)


def size() -> int:
    """How many processes the launcher says it started; 1 where there is no launcher."""
    return _first((*SIZE_VARIABLES, "SLURM_STEP_NUM_TASKS") if _in_srun_step() else SIZE_VARIABLES, 1)


def by_launcher() -> bool:
    """Whether an mpirun or srun started this process."""
    return any(name in os.environ for name in SIZE_VARIABLES) or _in_srun_step()


def by_slurm_pmi() -> bool:
    """Whether srun started this process and speaks PMI with it (`--mpi=pmi2`)."""
    return _in_srun_step() and "PMI_FD" in os.environ


def by_open_mpi() -> bool:
    """Whether Open MPI's launcher started this process."""
    return "OMPI_COMM_WORLD_SIZE" in os.environ


def let_rank0_leave_first() -> None:
    """On any other rank that ends without MPI: wait for the launcher to end it.

    Open MPI's kills the rest when the first rank leaves, and only rank 0 says why. (Others let each end by itself.)
    """
    if rank() > 0 and by_open_mpi():
        time.sleep(10)
