"""A long training that nobody disturbs: two ranks with an exchange every round, whose memory is watched.

    python steady.py FOLDER MINUTES

Prints a JSON object: of each rank, how its resident memory grew per hour after the first quarter of the time, how the
log that it keeps in memory grew meanwhile, and its open file descriptors.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from conftest import ROOT, TINY, Started

OPTIONS = [*TINY, "--env.id", "sleepy:Sleepy-v0", "--frames", "1000000000", "--log.distributions_at", "[]"]
RARELY = ["--checkpoint.every", "1000", "--eval.every", "1000", "--log.probe_every", "1000", "--log.publish_s", "5"]
STEP_S = 0.01
EVERY_S = 5.0


class Sample(NamedTuple):
    """One rank at one moment."""

    hours: float
    rss_mb: float
    log_mb: float
    descriptors: int


def look(pid: int, log: Path, since: float) -> Sample:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    rss = pages * os.sysconf("SC_PAGE_SIZE") / 1e6
    size = log.stat().st_size / 1e6 if log.exists() else 0.0
    return Sample((time.monotonic() - since) / 3600, rss, size, len(os.listdir(f"/proc/{pid}/fd")))


def slopes(samples: list[Sample]) -> dict[str, float]:
    """Per hour, by least squares, and how many file descriptors more there are in the second half than in the first."""
    hours, rss, log, descriptors = np.array(samples).T
    half = len(samples) // 2
    more = np.median(descriptors[half:]) - np.median(descriptors[:half])
    growth = {"rss_mb_per_h": np.polyfit(hours, rss, 1)[0], "log_mb_per_h": np.polyfit(hours, log, 1)[0]}
    return {name: round(float(value), 2) for name, value in growth.items()} | {
        "rss_mb": round(float(rss[-1]), 1),
        "descriptors": float(more),
    }


def watch(folder: Path, minutes: float) -> dict[str, object]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "slurm" / "scripts")])
    argv = ["-m", "mpi_ltcr", "train", "ltcr-cartpole-9-1", *OPTIONS, *RARELY, "--out", str(folder / "steady")]
    job = Started(2, argv, folder, {"PYTHONPATH": path, "SLEEPY_S": str(STEP_S)})
    since, samples = time.monotonic(), {0: [], 1: []}  # type: float, dict[int, list[Sample]]
    try:
        while time.monotonic() - since < 60 * minutes and job.process.poll() is None:
            time.sleep(EVERY_S)
            if time.monotonic() - since > 15 * minutes:
                for rank, pid in job.ranks().items():
                    samples[rank].append(look(pid, folder / "steady" / "logs" / f"agent{rank:04d}.h5", since))
        job.signal(signal.SIGUSR1)
        done = job.process.wait(timeout=120)
    finally:
        job.kill()
    frames = json.loads((folder / "steady" / "status.json").read_text())["frames"]
    return {"code": done, "frames": frames, "ranks": [slopes(samples[rank]) for rank in samples]}


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # and end the job first
    print(json.dumps(watch(Path(sys.argv[1]), float(sys.argv[2]))))
