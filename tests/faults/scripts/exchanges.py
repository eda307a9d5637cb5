"""Many exchanges of 4 KB: mpirun -n 2 python exchanges.py N. Rank 0 prints its growth and its latencies as JSON."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import numpy as np

from mpi_ltcr.comm import runtime
from mpi_ltcr.comm.collectives import Service


def rss_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def main(n: int) -> None:
    comm = runtime.start()
    service, payload = Service(comm, comm.rank), np.zeros(4096, np.uint8)
    marks: list[tuple[float, float]] = []
    for _ in range(10):
        since = time.process_time()
        for _ in range(n // 10):
            service.allgather(payload)
        marks.append((1e6 * (time.process_time() - since) / (n // 10), rss_mb()))
    if comm.rank == 0:
        first, last = marks[1], marks[-1]
        print(json.dumps({"first_us": first[0], "last_us": last[0], "grown_mb": last[1] - first[1]}))
    runtime.leave(0)


main(int(sys.argv[1]))
