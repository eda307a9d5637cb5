"""Learners that know nothing of MPI or of each other: `agent.backend` -> class."""

from mpi_ltcr.agents.c51 import C51Agent
from mpi_ltcr.agents.c51_fused import FusedC51Agent

AGENTS = {"eager": C51Agent, "fused": FusedC51Agent}
