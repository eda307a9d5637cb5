"""A job of two ranks whose disk goes away while it trains: in a mount namespace, on a small file system in memory.

    unshare --mount python failing_disk.py FOLDER FAULT      FAULT: small, full, read-only, deleted

Prints a JSON object: how the job ended, what its run directory holds, and how the resumed one ended.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from conftest import TINY, Started

from mpi_ltcr.archive.verification import verify_run

TRAIN = ["-m", "mpi_ltcr", "train", "ltcr-cartpole-9-1", *TINY, "--log.publish_s", "0.2", "--frames", "100000"]


def mount(folder: Path, *options: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", *options, "none", str(folder)], check=True)


def fill(folder: Path) -> None:
    with contextlib.suppress(OSError), open(folder / "filler", "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def forbid(folder: Path) -> None:
    """Make it read-only; that takes a moment in which no file is open for writing."""
    while subprocess.run(["mount", "-o", "remount,ro", str(folder)], capture_output=True, check=False).returncode:
        time.sleep(0.01)


def delete(folder: Path) -> None:
    """At once: ranks that write meanwhile would keep a folder alive that is emptied file by file."""
    (folder / "run").rename(folder / "gone")
    shutil.rmtree(folder / "gone")


FAULTS = {
    "small": lambda folder: None,
    "full": fill,
    "read-only": forbid,
    "deleted": delete,
}
MENDED = {
    "full": lambda folder: (folder / "filler").unlink(),
    "read-only": lambda folder: subprocess.run(["mount", "-o", "remount,rw", str(folder)], check=True),
}


def status_of(run: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((run / "status.json").read_text()))
    except (OSError, ValueError):
        return {}


def main(base: Path, fault: str) -> dict[str, Any]:
    folder = base / "disk"
    folder.mkdir()
    mount(folder, "-o", "size=64k" if fault == "small" else "size=8m")
    run = folder / "run"
    job = Started(2, [*TRAIN, "--out", str(run)], base)
    try:
        found = after(job, fault, folder, run)
    finally:
        job.kill()
    if fault in MENDED:
        MENDED[fault](folder)
        frames = 1000 * (status_of(run)["checkpoint"] // 1000 + 1)
        done = Started(2, ["-m", "mpi_ltcr", "resume", str(run), "--frames", str(frames)], base).finish(90)
        found["resumed"] = [done.rc, status_of(run).get("state"), done.err]
    return found


def after(job: Started, fault: str, folder: Path, run: Path) -> dict[str, Any]:
    """How a job ends whose disk has this fault."""
    while fault != "small" and status_of(run).get("checkpoint", 0) < 200 and job.process.poll() is None:
        time.sleep(0.01)
    FAULTS[fault](folder)
    since = time.monotonic()
    done = job.finish(90)
    seconds = time.monotonic() - since
    found = {"code": done.rc, "error": done.err, "seconds": seconds, "left": sorted(p.name for p in folder.iterdir())}
    found["problems"] = [problem for _, problem in verify_run(run) if problem] if run.exists() else []
    found["status"] = status_of(run)
    return found


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), sys.argv[2])))
