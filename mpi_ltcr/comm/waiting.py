"""How a rank waits for the others in a collective: awake for a while, then asleep between looks.

A sleep is never as short as it was asked for (50 us more, and a cold cache), which two ranks that exchange every few
milliseconds pay three times in each round. So ranks that can have a core each stay awake for longer than a round's
usual waiting; where many share one, those that wait soon leave it to those that work.
"""

from __future__ import annotations

import os
import time

from mpi4py import MPI

AWAKE, CROWDED = 3000, 200
"""Looks before the first sleep: 2 ms, 0.14 ms. Each offers its core to whoever else wants it."""
CROWD = 2
"""Ranks for each core up to which staying awake has been measured to pay."""


class Waiting:
    """Of this process."""

    def __init__(self) -> None:
        self.looks = CROWDED

    def share(self, ranks: int, cores: int) -> None:
        """So many ranks share so many cores."""
        self.looks = AWAKE if ranks <= CROWD * cores else CROWDED

    def until(self, request: MPI.Request) -> None:
        """Complete a request. Python's signal handlers run meanwhile."""
        looks = 0
        while not request.Test():
            looks += 1
            if looks <= self.looks:
                os.sched_yield()
            else:
                time.sleep(min(1e-3, 2e-5 * (looks - self.looks)))


waiting = Waiting()
