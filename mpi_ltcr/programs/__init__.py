"""The two programs, each a page of its paper: name -> function."""

from mpi_ltcr.programs.ltcr import ltcr

PROGRAMS = {"ltcr": ltcr}
