"""`mpi-ltcr bench`: this program's own pieces beside the least that the machine could do, measured in the same run.

mpi-ltcr bench env learn
mpirun -n 4 mpi-ltcr bench comm train

A part is a function from what was asked for to tables; on several ranks all of them take part and rank 0 prints.
"""

from __future__ import annotations

import importlib
import json
from typing import Any

from mpi_ltcr.bench.measuring import Asked, Bench, facts, text_of
from mpi_ltcr.comm import launch

PARTS = ("env", "learn", "comm", "train")
"""Each is a file of this folder with `measured(comm, asked, signals)`: loaded when asked for, most take torch along."""


def run_parts(comm: Any, parts: list[str], asked: Asked, signals: Any) -> None:
    """Collective. Measure, and print tables (or one JSON object) on rank 0; `signals` are for the training."""
    told: dict[str, Any] = {"facts": facts(comm.size)}
    for part in parts:
        tables: list[Bench] = importlib.import_module(f"{__name__}.{part}").measured(comm, asked, signals)
        told[part] = [table._asdict() for table in tables]
        if not asked.json and launch.rank() == 0:
            print("\n\n".join(text_of(table) for table in tables), end="\n\n", flush=True)
    if asked.json and launch.rank() == 0:
        print(json.dumps(told))
