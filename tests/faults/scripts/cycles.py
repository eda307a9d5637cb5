"""Jobs that are started and stopped: python cycles.py FOLDER PREFIX N, where nobody else uses /dev/shm.

In turns a rank is killed once MPI has started, mpirun is killed, or the job is left alone. Prints a JSON object: what
each left in /dev/shm and in the folder for temporary files, and processes that were there after ten seconds.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

from conftest import SESSION, Started

SCRIPT = Path(__file__).parent / "waiting.py"
GONE_S = 10.0


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def cycle(folder: Path, prefix: Path, victim: str) -> tuple[float, int, list[str]]:
    """Seconds to the end, processes and files that are left."""
    (temporary := folder / "tmp").mkdir()
    length = "0.1" if victim == "nobody" else "30"
    job = Started(
        2, [str(SCRIPT), str(folder), length], folder, {"TMPDIR": str(temporary), SESSION: str(temporary)}, prefix
    )
    while len(list(folder.glob("up?"))) < 2 and job.process.poll() is None:
        time.sleep(0.005)
    everybody, ranks, since = [job.pid, *job.descendants()], job.ranks(), time.monotonic()
    if victim != "nobody":
        os.kill(job.pid if victim == "mpirun" else ranks[1], signal.SIGKILL)
    while any(map(alive, everybody)) and time.monotonic() - since < GONE_S:
        job.process.poll()
        time.sleep(0.005)
    seconds, orphans = time.monotonic() - since, sum(map(alive, everybody))
    job.kill()
    job.finish(timeout=10)
    left = os.listdir("/dev/shm")
    # Open MPI's mpirun keeps its session there, and takes it with it unless it is killed itself.
    left += [] if victim == "mpirun" else os.listdir(temporary)
    for path in (*folder.glob("up?"), *(Path("/dev/shm") / name for name in os.listdir("/dev/shm"))):
        path.unlink()
    shutil.rmtree(temporary)
    return seconds, orphans, left


def main(folder: Path, prefix: Path, n: int) -> dict[str, Any]:
    victims = ["rank", "mpirun", "nobody"]
    done = [(victims[i % 3], *cycle(folder, prefix, victims[i % 3])) for i in range(n)]
    return {
        "seconds": [seconds for victim, seconds, _, _ in done if victim != "nobody"],
        "orphans": sum(orphans for _, _, orphans, _ in done),
        "left": [[victim, orphans, left] for victim, _, orphans, left in done if orphans or left],
    }


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))))
