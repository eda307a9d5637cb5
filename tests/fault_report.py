"""What the fault suite found, as a table: tests that are marked as a fault note their row, `faults/run.sh` makes
REPORT.md of the rows.

    @pytest.mark.fault("A2", "SIGKILL of a rank at a random moment")
    def test_...(tally): tally.add(50, seconds=[...])          without `tally`: one injection, as expected if it passes

python tests/fault_report.py ROWS.jsonl ... > tests/faults/REPORT.md
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

ALL = os.environ.get("FAULTS") == "all"
"""The whole suite, by `bash tests/faults/run.sh`; otherwise tier 1, a sample of it."""
LARGE = pytest.mark.skipif(not ALL, reason="a sample is enough here; FAULTS=all has it")


@dataclass
class Tally:
    """What one test injected, and what came of it."""

    injected: int = 0
    expected: int = 0
    """Of those that were injected; the others were not as expected, and the test fails."""
    seconds: list[float] = field(default_factory=list)
    """From a fault to the end of the job's last process."""
    lost: list[int] = field(default_factory=list)
    """Frames between the last checkpoint and the fault."""
    orphans: int | None = None
    """Processes that outlived their job; None where nobody looked."""

    def add(
        self,
        n: int = 1,
        *,
        expected: int | None = None,
        seconds: Iterable[float] = (),
        lost: Iterable[int] = (),
        orphans: int | None = None,
    ) -> None:
        """`n` more injections, `expected` of them (default: all) as expected."""
        self.injected += n
        self.expected += n if expected is None else expected
        self.seconds += seconds
        self.lost += lost
        if orphans is not None:
            self.orphans = (self.orphans or 0) + orphans

    def closed(self, passed: bool) -> Tally:
        """As it goes into the report: a failed test has something that was not as expected."""
        n = max(1, self.injected)
        expected = (self.expected or n) if passed else min(self.expected, n - 1)
        return Tally(n, expected, self.seconds, self.lost, self.orphans)


def note(row: str, fault: str, tally: Tally, skipped: str = "") -> None:
    """Add to the report, if one is being made."""
    path = os.environ.get("FAULTS_ROWS")
    if path:
        facts = {"row": row, "fault": fault, "skipped": skipped, **asdict(tally)}
        facts["seconds"] = [round(seconds, 3) for seconds in tally.seconds]
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps({**facts, "date": time.strftime("%Y-%m-%d"), "commit": commit()}) + "\n")


@functools.cache
def commit() -> str:
    """Of the code that is tested, in short; empty where that is no repository."""
    words = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    with contextlib.suppress(OSError):
        return subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()
    return ""


@contextlib.contextmanager
def memory_folder() -> Iterator[Path]:
    """A folder in memory where there is one: thousands of fsyncs would wear a disk out."""
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="faults-", dir=place))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# The report

HEAD = """\
# Fault report

Rows that the fault suite, as a whole or in parts, noted on {date}: {where}.

`bash tests/faults/run.sh` makes it anew, with every crash point and many interruptions; a line with few is of a sample.

Row: of the fault list; several tests may share a line. Seconds: from the fault to the end of the last process, where
there is something to wait for. Lost: frames between the last checkpoint and the fault, the most that any run had to
repeat. Orphans: processes that outlived their job, where somebody looked for them.

"""

TABLE = """\
| row | fault | injected | as expected | median s | max s | most lost | orphans |
|---|---|---|---|---|---|---|---|
"""


def merged(notes: list[dict[str, Any]]) -> list[tuple[str, str, Tally, set[str]]]:
    """(row, fault, all of its notes together, why some were skipped), in the order of the fault list."""
    found: dict[tuple[str, str], tuple[Tally, set[str]]] = {}
    for one in notes:
        total, skipped = found.setdefault((one["row"], one["fault"]), (Tally(), set()))
        if one["skipped"]:
            skipped.add(one["skipped"])
            continue
        facts = {name: one[name] for name in ("expected", "seconds", "lost", "orphans")}
        total.add(one["injected"], **facts)
    order = sorted(found, key=lambda key: (key[0][0], int(re.sub(r"\D", "", key[0])), key[1]))
    return [(row, fault, *found[row, fault]) for row, fault in order]


def line(row: str, fault: str, total: Tally, skipped: set[str]) -> str:
    """One line of the table."""
    seconds = [f"{f(total.seconds):.1f}" if total.seconds else "" for f in (statistics.median, max)]
    lost, orphans = max(total.lost, default=""), "" if total.orphans is None else total.orphans
    if skipped:
        fault += f" (skipped in part: {'; '.join(sorted(skipped))})" if total.injected else ""
        fault += f" (skipped: {'; '.join(sorted(skipped))})" if not total.injected else ""
    return f"| {' | '.join(map(str, [row, fault, total.injected, total.expected, *seconds, lost, orphans]))} |\n"


TARGETS = {
    "crash points that leave a whole state": ("C22",),
    "damage detected": ("C26", "C27"),
    "resumed runs equal to the whole one": ("B13", "D32", "D33"),
    "hangs ended, the right rank named": ("A7",),
    "bad configurations refused within two seconds of the core": ("E37",),
    "opens of a log during training that succeeded": ("C31",),
    "messages of a rank with a NaN from which nothing came through": ("E39",),
}
"""What must be 100 %, and the rows that tell."""


def targets(rows: list[tuple[str, str, Tally, set[str]]]) -> str:
    """The figures that matter most."""
    found = "\n| target | reached |\n|---|---|\n"
    for target, which in TARGETS.items():
        totals = [total for row, _, total, _ in rows if row in which]
        found += f"| {target} | {sum(t.expected for t in totals)} of {sum(t.injected for t in totals)} |\n"
    return found


def summary(rows: list[tuple[str, str, Tally, set[str]]]) -> str:
    """Everything together."""
    totals = [total for _, _, total, _ in rows]
    injected, expected = sum(t.injected for t in totals), sum(t.expected for t in totals)
    orphans = sum(t.orphans or 0 for t in totals)
    ends = [s for t in totals for s in t.seconds]
    median = f"; {len(ends)} ends, median {statistics.median(ends):.1f} s after the fault" if ends else ""
    return f"\nTogether: {injected} injected, {expected} as expected, {orphans} orphans{median}.\n"


def table(notes: list[dict[str, Any]]) -> str:
    """The report of these notes."""
    from mpi_ltcr import __version__

    names = ("torch", "numpy", "h5py", "mpi4py", "mpich")
    versions = [f"mpi_ltcr {__version__}", *(f"{name} {version(name)}" for name in names)]
    where = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
    rows = merged(notes)
    head = HEAD.format(date=time.strftime("%Y-%m-%d"), where=where + ", ".join(versions))
    return head + TABLE + "".join(line(*row) for row in rows) + targets(rows) + summary(rows)


if __name__ == "__main__":
    print(table([json.loads(text) for path in sys.argv[1:] for text in Path(path).read_text().splitlines()]), end="")
