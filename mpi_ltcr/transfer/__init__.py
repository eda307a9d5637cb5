"""How agents learn from each other: name -> class."""

from mpi_ltcr.transfer.none import NoTransfer
from mpi_ltcr.transfer.public_memory import PublicMemoryTransfer

TRANSFERS = {"none": NoTransfer, "public_memory": PublicMemoryTransfer}
