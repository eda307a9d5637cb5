"""The two programs, each a page of its paper: and what prepares one of them: by name."""

from collections.abc import Callable
from typing import Any, NamedTuple

from mpi_ltcr.programs.align import describe_align, prepare_align
from mpi_ltcr.programs.ca3c_job import prepare_ca3c
from mpi_ltcr.programs.ltcr_job import prepare_ltcr
from mpi_ltcr.programs.plan import describe_ca3c, describe_ltcr


class Entry(NamedTuple):
    """How a program is prepared on each rank, and how its plan is told."""

    prepare: Any
    describe: Callable[[Any, int], str]


PROGRAMS = {
    "ltcr": Entry(prepare_ltcr, describe_ltcr),
    "ca3c": Entry(prepare_ca3c, describe_ca3c),
    "align": Entry(prepare_align, describe_align),
}
