"""A rank that starts MPI, says so in the folder, and waits: python waiting.py FOLDER SECONDS."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from mpi_ltcr.comm import runtime

comm = runtime.start()
comm.Barrier()
(Path(sys.argv[1]) / f"up{comm.rank}").touch()
time.sleep(float(sys.argv[2]))
runtime.leave(0)
