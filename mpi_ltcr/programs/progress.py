"""What is told while it trains: a line that renews itself on a terminal, one line every 30 s elsewhere.

By rank 0; in cA3C by the server of each task.
"""

from __future__ import annotations

import sys
import time

TERMINAL_S, LOG_S = 0.5, 30.0


class Progress:
    """Frames, speed, how well it does and time to go, on standard error.

    Args:
        frames: of the whole run.
        measure: what `evaluated` is told, in words.
        name: of the task, where others have lines of their own.
    """

    def __init__(self, frames: int, measure: str = "eval return", name: str = "") -> None:
        self.total, self.measure, self.name = frames, measure, name
        self.live = sys.stderr.isatty() and not name  # lines that renew themselves would overwrite each other
        self.every = TERMINAL_S if self.live else LOG_S
        self.value = float("nan")
        self.resumed(0)

    def resumed(self, frames: int) -> None:
        """Count speed from here."""
        self.first, self.start = frames, time.perf_counter()
        self.shown = self.start

    def evaluated(self, value: float) -> None:
        """Remember the newest value of the measure."""
        self.value = value

    def show(self, frames: int) -> None:
        """Print, if it is time to."""
        now = time.perf_counter()
        if now - self.shown >= self.every:
            self.shown = now
            self._print(self.line(frames), end="\r" if self.live else "\n")

    def line(self, frames: int) -> str:
        """E.g. ``42000 / 100000 frames   310 frames/s   eval return 188.0   to go 3:07``."""
        rate = (frames - self.first) / max(1e-9, time.perf_counter() - self.start)
        left = int((self.total - frames) / rate) if rate > 0 else 0
        to_go = f"{left // 3600}:{left % 3600 // 60:02d}:{left % 60:02d}".removeprefix("0:")
        done = "#" * round(20 * frames / self.total)
        bar = f"[{done:<20}] " if self.live else ""
        measured = f"{self.measure} {self.value:.1f}"
        return f"{bar}{frames} / {self.total} frames   {rate:.0f} frames/s   {measured}   to go {to_go}"

    def done(self, frames: int, state: str) -> None:
        """The last line."""
        seconds = time.perf_counter() - self.start
        rate = (frames - self.first) / max(1e-9, seconds)
        speed = f"{frames} frames in {seconds:.0f} s, {rate:.0f} frames/s"
        self._print(f"{state}: {speed}   {self.measure} {self.value:.1f}")

    def _print(self, text: str, end: str = "\n") -> None:
        head = f"mpi-ltcr: {self.name}: " if self.name else "mpi-ltcr: "
        print(head + text + (" " * 8 if self.live else ""), end=end, file=sys.stderr, flush=True)
