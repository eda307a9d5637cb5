"""What the fault suite found, as a table: each test notes its row, `run.sh` makes REPORT.md of them.

python tests/faults/reporting.py ROWS.jsonl > tests/faults/REPORT.md
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

ALL = os.environ.get("FAULTS") == "all"
"""The whole suite, by `bash tests/faults/run.sh`; otherwise tier 1, a sample of it."""

HEAD = """\
# Fault report

Rows that the fault suite noted on {date}: {where}. `bash tests/faults/run.sh` makes it anew with every crash point
and many interruptions; rows with few injections are of the sample that tests/run.sh has.

Seconds: from the fault to the end of the last process, where there is something to wait for. Lost: frames between the
last checkpoint and the fault, the most that any run had to repeat. Orphans: processes that outlived their job.

| row | fault | injected | as expected | median s | max s | most lost | orphans |
|---|---|---|---|---|---|---|---|
"""


@contextlib.contextmanager
def memory_folder() -> Iterator[Path]:
    """A folder in memory where there is one: thousands of fsyncs would wear a disk out."""
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="faults-", dir=place))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def note(
    row: str,
    fault: str,
    injected: int,
    expected: int,
    *,
    seconds: Sequence[float] = (),
    lost: Sequence[int] = (),
    orphans: int | None = None,
) -> None:
    """Add a row to the report, if one is being made."""
    path = os.environ.get("FAULTS_ROWS")
    if path:
        fields = {"row": row, "fault": fault, "injected": injected, "expected": expected}
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps({**fields, "seconds": list(seconds), "lost": list(lost), "orphans": orphans}) + "\n")


def table(rows: list[dict]) -> str:
    """The report of these rows."""
    names = ("mpi_ltcr", "torch", "numpy", "h5py", "mpi4py", "mpich")
    from mpi_ltcr import __version__

    versions = [f"mpi_ltcr {__version__}", *(f"{name} {version(name)}" for name in names[1:])]
    where = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
    lines = [HEAD.format(date=time.strftime("%Y-%m-%d"), where=where + ", ".join(versions))]
    for r in sorted(rows, key=lambda r: (r["row"][0], int("".join(filter(str.isdigit, r["row"]))))):
        median, most = (f"{f(r['seconds']):.1f}" if r["seconds"] else "" for f in (statistics.median, max))
        lost, orphans = max(r["lost"], default=""), "" if r["orphans"] is None else r["orphans"]
        cells = [r["row"], r["fault"], r["injected"], r["expected"], median, most, lost, orphans]
        lines.append(f"| {' | '.join(map(str, cells))} |\n")
    injected, expected = (sum(r[name] for r in rows) for name in ("injected", "expected"))
    lines.append(f"\nTogether: {injected} injected, {expected} as expected.\n")
    return "".join(lines)


if __name__ == "__main__":
    print(table([json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()]), end="")
