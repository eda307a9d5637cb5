"""A log that goes out now and then, for those who look on while it trains."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

from mpi_ltcr.archive.recorder import Recorder
from mpi_ltcr.programs.job import tolerated

SHARE = 1 / 10
"""Of the time that publishing may take: a log is written whole each time, and grows for as long as it trains."""


class Publishing:
    """When a log is due, and what the disk may have against it.

    Args:
        every_s: seconds between two times, if they take no more than their share.
        event: told (level, text) if the log was not written; the next time may succeed.
    """

    def __init__(self, recorder: Recorder, every_s: float, event: Callable[[str, str], object]) -> None:
        self.recorder, self.every_s, self.event = recorder, every_s, event
        self._at, self._took = time.perf_counter(), 0.0

    def rewind(self, rows: dict[str, int], log: Path | None = None) -> None:
        """Go on with the published log, or another one, cut to these rows; with a new one if it is gone, and say so."""
        if not self.recorder.rewind(rows, log):
            told = f"{log or self.recorder.path} is missing; goes on with a new log"
            self.event("warning", told)
            print(f"mpi-ltcr: warning: {told}", file=sys.stderr, flush=True)

    @property
    def due(self) -> bool:
        """Whether it is time again."""
        return time.perf_counter() - self._at > max(self.every_s, self._took / SHARE)

    def publish(self) -> None:
        """Write the log as it is now."""
        start = time.perf_counter()
        with tolerated("log", self.event):
            self.recorder.publish()
        self._at = time.perf_counter()
        self._took = self._at - start
