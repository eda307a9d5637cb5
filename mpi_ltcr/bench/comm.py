"""LTCR's exchange against the size of the team and who teaches whom, beside bare MPI calls of the same bytes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from mpi_ltcr.bench.measuring import Asked, Bench
from mpi_ltcr.comm.collectives import HEADER, TAIL, Service
from mpi_ltcr.comm.waiting import waiting
from mpi_ltcr.interfaces import EnvSpec, Features
from mpi_ltcr.memory.public import PublicMemory
from mpi_ltcr.transfer.public_memory import PublicMemoryTransfer
from mpi_ltcr.transfer.topology import Topology

SPEC = EnvSpec((4,), np.dtype(np.float32), 2)
ROUND_FRAMES, DEMONSTRATIONS, ATOMS = 10, 32, 51
"""Of `ltcr-cartpole-9-1`."""
WAYS = {
    "all": ("all", 1, False),
    "all, mean by allreduce": ("all", 1, True),
    "ring": ("ring", 1, False),
    "random-k, k=1": ("random-k", 1, False),
    "best-k, k=1": ("best-k", 1, False),
}
"""Name -> topology, k, whether the average of all comes as a sum."""
FLOORS = dict.fromkeys(WAYS, "bare ring") | {"all": "bare allgather", "all, mean by allreduce": "bare allreduce"}
"""The bare calls that each is set beside."""


class Voice:
    """An agent that has its answer ready: what is left is the exchange."""

    def __init__(self) -> None:
        self.masses = np.full((DEMONSTRATIONS, ATOMS), 1 / ATOMS, np.float32)

    def answer(self, features: Features) -> np.ndarray:
        """The same for all."""
        return self.masses


def measured(comm: Any, asked: Asked, signals: Any) -> list[Bench]:
    """Collective. Bytes and time of a round for teams of 2, 4, 8, ... and all of the ranks that were started."""
    everyone = Service(comm, comm.rank)
    rows = []
    for size in sizes(comm.size):
        everyone.any(False)  # waits without holding the core, which the next call would
        team = comm.Split(int(comm.rank < size), comm.rank)
        if comm.rank < size:
            rows += _measure(team, asked)
        everyone.any(False)
        team.Free()
    title = f"comm: a round of {ROUND_FRAMES} frames, {DEMONSTRATIONS} demonstrations of {ATOMS} atoms"
    return [Bench(title, rows or [{"ranks": comm.size}])]


def sizes(limit: int) -> list[int]:
    """2, 4, 8, ... up to the limit, and the limit itself."""
    return sorted({limit, *(2**i for i in range(1, limit.bit_length()) if 2**i <= limit)})


def _measure(team: Any, asked: Asked) -> list[dict[str, Any]]:
    """Collective. One row for each way, all measured in turn."""
    service = Service(team, team.rank)
    ways = {name: _exchange(team, *how) for name, how in WAYS.items()}
    bare = {name: _bare(team, name) for name in sorted(set(FLOORS.values()))}
    works: dict[str, Callable[[], None]] = {**{name: round_ for name, (round_, _) in ways.items()}, **bare}
    count = _enough(service, works["all"], asked.seconds / len(works))
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    for _ in range(asked.repeats):
        for name, work in works.items():
            service.any(False)
            wall, cpu = time.perf_counter(), time.process_time()
            for _ in range(count):
                work()
            seen[name].append(((time.perf_counter() - wall) / count, (time.process_time() - cpu) / count))
    rows = []
    for name, (_, transfer) in ways.items():
        traffic = service.allgather(np.array([transfer.last["bytes_sent"], transfer.last["bytes_received"]]))
        wall, cpu = np.median(service.allgather(np.array(seen[name])), axis=1).mean(0)
        floor, _ = np.median(service.allgather(np.array(seen[FLOORS[name]])), axis=1).mean(0)
        rows.append(
            {
                "topology": name,
                "ranks": team.size,
                "bytes_sent_each": float(traffic[1:, 0].mean()),
                "bytes_received_each": float(traffic[1:, 1].mean()),
                "bytes_sent_rank0": int(traffic[0, 0]),
                "bytes_received_rank0": int(traffic[0, 1]),
                "ms": 1e3 * wall,
                "cpu_ms_each": 1e3 * cpu,
                "bare_mpi_ms": 1e3 * floor,
                "times_floor": wall / max(floor, 1e-12),
            }
        )
    return rows


def _enough(service: Service, work: Callable[[], None], seconds: float) -> int:
    """Collective. Rounds that take about `seconds`, the same number on all ranks."""
    for _ in range(3):
        work()
    start = time.perf_counter()
    for _ in range(5):
        work()
    each = service.allgather(np.array([time.perf_counter() - start]))[0, 0] / 5
    return int(max(3, min(10_000, seconds / each)))


def _exchange(team: Any, topology: str, k: int, summed: bool) -> tuple[Callable[[], None], PublicMemoryTransfer]:
    """The program's own exchange, without an agent that would have to think."""
    rng = np.random.default_rng
    transfer = PublicMemoryTransfer(
        service=Service(team, team.rank),
        memory=PublicMemory(capacity=50_000, spec=SPEC, rng=rng(1)) if team.rank == 0 else None,
        spec=SPEC,
        upload_rng=rng(team.rank),
        round_frames=ROUND_FRAMES,
        demonstrations=DEMONSTRATIONS,
        upload_probability=1.0,
        subset="common",
        target="mean" if summed else "peer",
        topology=Topology(name=topology, size=team.size, k=k, rng=rng(2)),
        summed=summed,
        start=0,
    )
    fresh = Features(np.zeros((ROUND_FRAMES, 4), np.float32), np.zeros(ROUND_FRAMES, np.int64))
    voice: Any = Voice()

    def round_() -> None:
        transfer.exchange(voice, fresh)

    return round_, transfer


def _bare(team: Any, answers: str) -> Callable[[], None]:
    """The same calls of MPI with the same bytes, out of buffers that lie ready; waited for as the program does."""
    phi, head = 4 * 4 + 8, HEADER.size
    upload, sample = (np.zeros(head + 8 + n * phi, np.uint8) for n in (ROUND_FRAMES, DEMONSTRATIONS))
    uploads = np.zeros((team.size, upload.size), np.uint8)
    masses = np.zeros(head + 4 * DEMONSTRATIONS * ATOMS, np.uint8)
    everyones = np.zeros((team.size, masses.size), np.uint8)
    integers, sums = (np.zeros(DEMONSTRATIONS * ATOMS + 1 + TAIL, np.int64) for _ in range(2))
    following, before = (team.rank + 1) % team.size, (team.rank - 1) % team.size

    def round_() -> None:
        waiting.until(team.Igather(upload, uploads if team.rank == 0 else None, root=0))
        waiting.until(team.Ibcast(sample, root=0))
        if answers == "bare allgather":
            waiting.until(team.Iallgather(masses, everyones))
        elif answers == "bare allreduce":
            waiting.until(team.Iallreduce(integers, sums))
        else:
            requests = [team.Irecv(everyones[0], source=before), team.Isend(masses, dest=following)]
            for request in requests:
                waiting.until(request)

    return round_
