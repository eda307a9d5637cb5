"""Learners that know nothing of MPI or of each other: (`agent.returns`, `agent.backend`) -> class."""

from mpi_ltcr.agents.c51 import C51Agent
from mpi_ltcr.agents.c51_fused import FusedC51Agent
from mpi_ltcr.agents.qr import QRAgent

AGENTS: dict[tuple[str, str], type[C51Agent]] = {
    ("atoms", "eager"): C51Agent,
    ("atoms", "fused"): FusedC51Agent,
    ("quantiles", "eager"): QRAgent,
}
