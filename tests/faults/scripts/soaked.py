"""What came of a soak: python soaked.py FOLDER MINUTES, where FOLDER holds found.json and steady.json."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

from fault_report import Tally, note

GROWTH_MB_PER_H = 1.0
"""That a process may have beyond its log, which it keeps in memory."""
KINDS = "SIGKILL, SIGUSR1 or SIGSTOP at random moments"
"""Of the single processes (forked.py)."""


def soak(found: dict[str, Any], minutes: str) -> bool:
    """Note the faults and what came of them; whether all was as expected."""
    told = f"{found['runs']} runs, {found['equal']} of them end as the whole one"
    print(f"{found['signals']} signals, {told}")
    for line in found["unexpected"]:
        print("unexpected:", line)
    if "ranks" in found:
        blows = ", ".join(f"{n} {name}" for name, n in sorted(found["blows"].items()))
        told = f"teams of {found['ranks']} ranks, MPICH and Open MPI by turns: {blows}; then resumed; {told}"
    else:
        told = f"one process without mpirun: {KINDS}, then resumed; {told}"
    tally = Tally()
    good = found["signals"] - len(found["unexpected"])
    tally.add(found["signals"], expected=good, **{k: found.get(k) for k in ("seconds", "lost", "orphans")})
    note("F44", f"soak of {minutes} minutes, {told}", tally)
    return not found["unexpected"] and found["equal"] == found["runs"]


def attempts(rss: list[float]) -> bool:
    """Note the most memory that each attempt used; whether that does not grow."""
    quarter = max(1, len(rss) // 4)
    first, last = statistics.median(rss[:quarter]), statistics.median(rss[-quarter:])
    told = f"memory of {len(rss)} attempts, {first:.0f} MB in the first quarter, {last:.0f} MB in the last"
    print(told)
    flat = last <= 1.1 * first
    note("F44", f"the same, one process without mpirun: {told}", Tally(1, int(flat)))
    return flat


def steady(found: dict[str, Any], minutes: str) -> bool:
    """Note how the memory of the training that was left alone grew; whether only as its log did."""
    ranks = found["ranks"]
    print(f"a training of {found['frames']} frames left alone, exit code {found['code']}: {ranks}")
    growth = max(rank["rss_mb_per_h"] - rank["log_mb_per_h"] for rank in ranks)
    steadily = growth < GROWTH_MB_PER_H and not any(rank["descriptors"] for rank in ranks) and found["code"] == 85
    told = "; ".join(f"{r['rss_mb_per_h']} MB/h, its log {r['log_mb_per_h']} MB/h" for r in ranks)
    fault = f"a job of two ranks left alone for {minutes} minutes, {found['frames']} frames: memory grows by {told}"
    note("F44", fault, Tally(1, int(steadily)))
    return steadily


def main(folder: Path, minutes: str) -> int:
    found, alone = (json.loads((folder / name).read_text()) for name in ("found.json", "steady.json"))
    good = [soak(found, minutes), steady(alone, minutes)]
    good += [attempts(found["rss_mb"])] if "rss_mb" in found else []
    return int(not all(good))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
