"""Learners that know nothing of MPI or of each other."""

from mpi_ltcr.agents.c51 import C51Agent

AGENTS = {"c51": C51Agent}
