"""What the fault suite found, as a table: tests that are marked as a fault note their row, `faults/run.sh` makes
REPORT.md of the rows.

    @pytest.mark.fault("A2", "SIGKILL of a rank at a random moment")
    def test_...(tally): tally.add(50, seconds=[...])          without `tally`: one injection, as expected if it passes

python tests/fault_report.py ROWS.jsonl OLDER.jsonl ... > tests/faults/REPORT.md

A row of one process, in which no mpirun is, says so in its words: "without mpirun".
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
from typing import Any, NamedTuple

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
    told: list[str] = field(default_factory=list)
    """Figures that belong to the row."""

    def add(
        self,
        n: int = 1,
        *,
        expected: int | None = None,
        seconds: Iterable[float] = (),
        lost: Iterable[int] = (),
        orphans: int | None = None,
        told: Iterable[str] = (),
    ) -> None:
        """`n` more injections, `expected` of them (default: all) as expected."""
        self.injected += n
        self.expected += n if expected is None else expected
        self.seconds += seconds
        self.lost += lost
        self.told += told
        if orphans is not None:
            self.orphans = (self.orphans or 0) + orphans

    def closed(self, passed: bool) -> Tally:
        """As it goes into the report: a failed test has something that was not as expected."""
        n = max(1, self.injected)
        expected = (self.expected or n) if passed else min(self.expected, n - 1)
        return Tally(n, expected, self.seconds, self.lost, self.orphans, self.told)


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

Rows that the fault suite, as a whole or in parts, noted on {date}{commit}: {where}.
A row with a date and a commit is of that day and that code: soaks and SLURM's slow proofs are run by hand.

`bash tests/faults/run.sh` makes it anew, with every crash point and many interruptions; a line with few is of a sample.

Row: of the fault list; several tests may share a line. Seconds: from the fault to the end of the last process, where
there is something to wait for. Lost: frames between the last checkpoint and the fault, the most that any run had to
repeat. Orphans: processes that outlived their job, where somebody looked for them.

"""

TABLE = """\
| row | fault | injected | as expected | median s | max s | most lost | orphans |
|---|---|---|---|---|---|---|---|
"""

NOT_COVERED = """
## Not covered here

- A6, a GPU that is out of memory: a MemoryError on one rank stands for it. No GPU here; `tests/gpu.sh` does not
  provoke it either.
- B20, CUDA_VISIBLE_DEVICES empty, by UUID or of a MIG part: played numbers of GPUs only. No GPU here; `tests/gpu.sh`
  has two ranks on one real GPU, or on two.
- D32 on a GPU with deterministic algorithms: equal bits are promised and tested on the CPU alone. `tests/gpu.sh` has a
  resumed run on a GPU that completes, and a saved agent that goes on on the other device.
- E42, a team of which one rank has a GPU and another none: no GPU here, and `tests/gpu.sh` has teams of one kind.
- A3, the stack in `crash/`: it goes to stderr, which a batch system keeps. faulthandler writes to one place only, and
  that is open before there is a run directory.
- E39, an update that is skipped because its loss is not finite: by choice there is none. The job stops, nothing that is
  not finite is sent, logged or saved.
- A2 and B13, fifty moments under each MPI: as many as the table says for each, fewer than fifty.
- F44, 8 to 12 hours with four ranks: as many minutes and ranks as the table says.
- F45, 10^6 exchanges: half as many, under each MPI.
"""


class Line(NamedTuple):
    """What becomes one of the table."""

    row: str
    fault: str
    total: Tally
    """All of its notes together."""
    skipped: set[str]
    """Why some of them were."""
    when: set[str]
    """Of what day and code they are, unless they are of this run."""

    def __str__(self) -> str:
        total, words = self.total, "; ".join([self.fault, *self.total.told])
        seconds = [f"{f(total.seconds):.1f}" if total.seconds else "" for f in (statistics.median, max)]
        if self.skipped:
            words += f" (skipped{' in part' if total.injected else ''}: {'; '.join(sorted(self.skipped))})"
        if self.when:
            words += f" ({'; '.join(sorted(self.when))})"
        orphans = "" if total.orphans is None else total.orphans
        cells = [self.row, words, total.injected, total.expected, *seconds, max(total.lost, default=""), orphans]
        return f"| {' | '.join(map(str, cells))} |\n"


def merged(notes: list[dict[str, Any]], older: list[dict[str, Any]]) -> list[Line]:
    """Notes of the same row and fault together, in the order of the fault list."""
    found: dict[tuple[str, str], Line] = {}
    for one, when in [*((one, "") for one in notes), *((one, f"{one['date']}, {one['commit']}") for one in older)]:
        line = found.setdefault((one["row"], one["fault"]), Line(one["row"], one["fault"], Tally(), set(), set()))
        line.when.update([when] if when else [])
        if one["skipped"]:
            line.skipped.add(one["skipped"])
            continue
        facts = {name: one[name] for name in ("expected", "seconds", "lost", "orphans")}
        line.total.add(one["injected"], told=one.get("told", ()), **facts)
    return sorted(found.values(), key=lambda line: (line.row[0], int(re.sub(r"\D", "", line.row)), line.fault))


TARGETS = {
    "crash points that leave a whole state": "C22 ",
    "damage detected": "C2[67] ",
    "resumed runs equal to the whole one": "B13 |D3[23] ",
    "hangs ended, the right rank named": "A7 (a rank hangs: the report names it|a silent )",
    "hangs ended where nobody can know the rank: in MPI's own start or end, a cut cable": "A7 .*(in MPI's own|is cut)",
    "bad configurations refused within two seconds of the core": "E37 ",
    "opens of a log during training that succeeded": "C31 ",
    "messages of a rank with a NaN from which nothing came through": "E39 ",
}
"""What must be 100 %, and the rows that tell: a pattern for the beginning of row and fault."""


def targets(lines: list[Line]) -> str:
    """The figures that matter most."""
    found = "\n| target | reached |\n|---|---|\n"
    for target, pattern in TARGETS.items():
        totals = [line.total for line in lines if re.match(pattern, f"{line.row} {line.fault}")]
        found += f"| {target} | {sum(t.expected for t in totals)} of {sum(t.injected for t in totals)} |\n"
    looked = [line.total for line in lines if line.total.orphans is not None]
    faults = sum(total.injected for total in looked)
    found += f"| no process outlives its job | {sum(t.orphans or 0 for t in looked)} left after {faults} faults |\n"
    ends = [s for line in lines if "without mpirun" not in line.fault for s in line.total.seconds]
    if ends:
        told = f"median {statistics.median(ends):.1f} s, at most {max(ends):.1f} s, of {len(ends)} jobs"
        found += f"| from a fault to the end of a job under mpirun | {told} |\n"
    return found


def summary(lines: list[Line]) -> str:
    """Everything together."""
    totals = [line.total for line in lines]
    return f"\nTogether: {sum(t.injected for t in totals)} injected, {sum(t.expected for t in totals)} as expected.\n"


def table(notes: list[dict[str, Any]], older: list[dict[str, Any]]) -> str:
    """The report of these notes; `older` are of other days."""
    from mpi_ltcr import __version__

    names = ("torch", "numpy", "h5py", "mpi4py", "mpich")
    versions = [f"mpi_ltcr {__version__}", *(f"{name} {version(name)}" for name in names)]
    where = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
    lines = merged(notes, older)
    commits = "".join(f", {name}" for name in sorted({one["commit"] for one in notes}))
    head = HEAD.format(date=time.strftime("%Y-%m-%d"), commit=commits, where=where + ", ".join(versions))
    return head + TABLE + "".join(map(str, lines)) + targets(lines) + summary(lines) + NOT_COVERED


def rows(path: str) -> list[dict[str, Any]]:
    """The notes in a file."""
    return [json.loads(text) for text in Path(path).read_text().splitlines()]


if __name__ == "__main__":
    print(table(rows(sys.argv[1]), [one for path in sys.argv[2:] for one in rows(path)]), end="")
