"""`mpi-ltcr verify`: is everything in a run directory what it was when it was written?"""

from __future__ import annotations

import sys
from pathlib import Path

from mpi_ltcr.archive.verification import verify_run
from mpi_ltcr.verbs.checks import Parser, complain, require_run


def verify(arguments: list[str]) -> None:
    """Check every file of a run: hashes of all checkpoints, logs that open and hold what the schema says."""
    parser = Parser("mpi-ltcr verify", description=verify.__doc__)
    parser.add_argument("run", type=Path, help="the run directory")
    asked = parser.parse_args(arguments)
    require_run(asked.run)
    faulty = []
    for name, problem in verify_run(asked.run):
        print(f"{'FAULT' if problem else 'ok   '} {name}{': ' + problem if problem else ''}")
        faulty += [name] if problem else []
    if faulty:
        logs = any(name.startswith("logs/") for name in faulty)
        first = "restore faulty logs from a copy, or move them away to go on with new ones; then " if logs else ""
        complain(f"{asked.run}: {len(faulty)} faulty; {first}resume uses the newest whole checkpoint")
        sys.exit(65)
