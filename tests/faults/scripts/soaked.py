"""What came of a soak: python soaked.py FOLDER MINUTES, where FOLDER holds found.json and steady.json."""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path

from fault_report import Tally, note

GROWTH_MB_PER_H = 1.0
"""That a process may have beyond its log, which it keeps in memory."""


def main(folder: Path, minutes: str) -> int:
    found, steady = (json.loads((folder / name).read_text()) for name in ("found.json", "steady.json"))
    rss, ranks = found["rss_mb"], steady["ranks"]
    quarter = max(1, len(rss) // 4)
    first, last = statistics.median(rss[:quarter]), statistics.median(rss[-quarter:])
    growth = max(rank["rss_mb_per_h"] - rank["log_mb_per_h"] for rank in ranks)
    when = f"{minutes} minutes on {time.strftime('%Y-%m-%d')}"

    same = f"{found['runs']} runs, {found['equal']} of them end as the whole one"
    print(f"{found['signals']} signals in {len(rss)} attempts of {same}")
    print(f"most memory of an attempt: {first:.0f} MB in the first quarter, {last:.0f} MB in the last")
    print(f"a training of {steady['frames']} frames left alone, exit code {steady['code']}: {ranks}")
    for line in found["unexpected"]:
        print("unexpected:", line)

    tally = Tally()
    good = found["signals"] - len(found["unexpected"])
    tally.add(found["signals"], expected=good, seconds=found["seconds"], lost=found["lost"])
    note("F44", f"soak of {when}: SIGKILL, SIGUSR1 or SIGSTOP at random, then resumed; {same}", tally)
    flat = last <= 1.1 * first
    fault = f"the same: memory of {len(rss)} attempts, {first:.0f} MB in the first quarter, {last:.0f} MB in the last"
    note("F44", fault, Tally(1, int(flat)))
    steadily = growth < GROWTH_MB_PER_H and not any(rank["descriptors"] for rank in ranks) and steady["code"] == 85
    told = "; ".join(f"{r['rss_mb_per_h']} MB/h, its log {r['log_mb_per_h']} MB/h" for r in ranks)
    fault = f"a training of two ranks beside it, {steady['frames']} frames: resident memory grows by {told}"
    note("F44", fault, Tally(1, int(steadily)))
    return int(bool(found["unexpected"]) or found["equal"] != found["runs"] or not flat or not steadily)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
