"""What the ranks of one node share: its memory and its cores."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from mpi4py import MPI

GROUP_FILES = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))
"""Limit and use of a control group, second and first version: what SLURM and containers set."""


@contextlib.contextmanager
def ranks_of_node(comm: MPI.Intracomm) -> Iterator[MPI.Comm]:
    """Collective. A communicator of those ranks of `comm` that are on this node."""
    node = comm.Split_type(MPI.COMM_TYPE_SHARED)
    yield node
    node.Free()


def total_of_node(comm: MPI.Intracomm, amount: int) -> tuple[int, int]:
    """Collective. The sum of `amount` over this node's ranks, exact below 2^53, and how many they are."""
    total = np.array([amount], np.float64)  # what is asked for may be more than 64 bits count
    with ranks_of_node(comm) as node:
        node.Allreduce(MPI.IN_PLACE, total)
        size = node.size
    return int(total[0]), size


MOST_CPUS = 8192
"""What Linux can count to."""


def cpus() -> set[int]:
    """Numbers of the processors that this process may use."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def cores_of_node(comm: MPI.Intracomm) -> tuple[int, int]:
    """Collective. This node's ranks, and the processors that any of them may use."""
    able = np.zeros(MOST_CPUS, np.uint8)
    able[list(cpus())] = 1
    with ranks_of_node(comm) as node:
        node.Allreduce(MPI.IN_PLACE, able, MPI.MAX)
        size = node.size
    return size, int(able.sum())


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes that this process's node, and its control group, can still give; None where they do not say."""
    found = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = (root / "proc/meminfo").read_text().splitlines()
        found += [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    for folder in _groups(root):
        for limit, used in GROUP_FILES:
            with contextlib.suppress(OSError, ValueError):  # no such file, or the word "max"
                found.append(int((folder / limit).read_text()) - int((folder / used).read_text()))
    return max(0, min(found)) if found else None


def _groups(root: Path) -> list[Path]:
    """The memory control groups of this process, and those above them, whose limits hold as well."""
    found = [root / "sys/fs/cgroup", root / "sys/fs/cgroup/memory"]
    with contextlib.suppress(OSError, ValueError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, kinds, path = line.split(":", 2)
            if kinds in ("", "memory"):
                own = root / "sys/fs/cgroup" / kinds / path.lstrip("/")
                found += [own, *own.parents[: len(Path(path).parts) - 1]]
    return found
