"""Learners that know nothing of MPI or of each other: (`agent.returns`, `agent.backend`) -> class."""

from mpi_ltcr.agents.c51 import C51Agent
from mpi_ltcr.agents.c51_compiled import CompiledAdam, CompiledC51Agent
from mpi_ltcr.agents.c51_fused import FusedC51Agent
from mpi_ltcr.agents.qr import QRAgent
from mpi_ltcr.steppers import LocalAdam

AGENTS: dict[tuple[str, str], type[C51Agent]] = {
    ("atoms", "eager"): C51Agent,
    ("atoms", "fused"): FusedC51Agent,
    ("atoms", "compiled"): CompiledC51Agent,
    ("quantiles", "eager"): QRAgent,
}

OPTIMISERS: dict[str, type[LocalAdam]] = {"eager": LocalAdam, "fused": LocalAdam, "compiled": CompiledAdam}
"""How each `agent.backend` moves the weights."""
