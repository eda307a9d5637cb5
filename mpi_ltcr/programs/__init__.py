"""The two programs, each a page of its paper: name -> how it is prepared on each rank."""

from typing import Any

from mpi_ltcr.programs.ca3c_job import prepare_ca3c
from mpi_ltcr.programs.ltcr_job import prepare_ltcr

PROGRAMS: dict[str, Any] = {"ltcr": prepare_ltcr, "ca3c": prepare_ca3c}
