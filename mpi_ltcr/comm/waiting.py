"""How a rank waits for others: awake for a while, then asleep between looks.

A sleep is never as short as it was asked for (50 us more, and a cold cache), which two ranks that exchange every few
milliseconds pay three times in each round. So ranks that can have a core each stay awake for longer than a round's
usual waiting; where many share one, those that wait soon leave it to those that work.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from mpi4py import MPI

AWAKE_S, CROWDED_S = 2e-3, 1.4e-4
"""Seconds before the first sleep. Each look offers the core to whoever else wants it."""
CROWD = 2
"""Ranks for each core up to which staying awake has been measured to pay."""


class Waiting:
    """Of this process."""

    def __init__(self) -> None:
        self.awake_s = CROWDED_S

    def share(self, ranks: int, cores: int) -> None:
        """So many ranks share so many cores."""
        self.awake_s = AWAKE_S if ranks <= CROWD * cores else CROWDED_S

    def until(self, request: MPI.Request, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Complete a request; `meanwhile` is called after each look in vain. Python's signal handlers run as well."""
        begun, naps = time.perf_counter(), 0
        while not request.Test():
            meanwhile()
            if not naps and time.perf_counter() - begun < self.awake_s:
                os.sched_yield()
            else:
                naps += 1
                time.sleep(min(1e-3, 2e-5 * naps))


waiting = Waiting()
