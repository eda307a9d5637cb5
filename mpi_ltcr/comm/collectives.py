"""Collectives of one service over numpy buffers, on a communicator of its own. No pickle, no size exchange.

Every call is non-blocking underneath and waited for with `wait`, so that a rank that only waits gives its core back
(there may be more ranks than cores) and Python's signal handlers run meanwhile.

Results are in the order of agents, not of ranks: nothing that is computed from them depends on who sits where.
"""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Iterable
from itertools import count

import numpy as np
from mpi4py import MPI

MAGIC = 0x4C544352  # "LTCR"
HEADER = np.dtype([("magic", "<u4"), ("operation", "<u4"), ("round", "<u8"), ("agent", "<u4"), ("crc", "<u4")])
FIXED_POINT, TAIL = 2.0**48, 4
"""Of `Service.total`: steps in 1, and the integers behind its payload that are checked."""


class WireError(RuntimeError):
    """A message that is not the one that was due: damaged, of another round, or of another operation."""


def wait(request: MPI.Request) -> None:
    """Complete a request. Polls eagerly at first (an exchange takes microseconds), then sleeps between looks."""
    looks = 0
    while not request.Test():
        looks += 1
        if looks < 200:
            os.sched_yield()
        else:
            time.sleep(min(1e-3, 2e-5 * (looks - 199)))


class Service:
    """Collectives of `comm`'s ranks, in lockstep.

    Args:
        comm: is duplicated, so that no other service's messages can be taken for ours.
        agent: number of this rank's agent.

    Attributes:
        agents: numbers of all agents, by rank.
        sent, received: bytes of this rank's payloads so far.
        seconds: time spent in here so far.
    """

    def __init__(self, comm: MPI.Intracomm, agent: int) -> None:
        """Collective."""
        self.comm = comm.Dup()
        self.rank, self.size = comm.rank, comm.size
        self.sent = self.received = 0
        self.seconds = 0.0
        self.round = 0
        self.agent = agent
        self.agents = np.arange(self.size)
        self.agents = self._allgather(np.array([agent], np.int64))[:, 0]
        self._order = np.argsort(self.agents)

    def gather(self, payload: np.ndarray) -> np.ndarray | None:
        """Collective. Payloads of equal shape and dtype to rank 0: (N, *shape) by agent; None elsewhere."""
        message = self._pack(payload, 1)
        box = np.empty((self.size, message.size), np.uint8) if self.rank == 0 else None
        self._run(self.comm.Igather(message, box, root=0))
        self._count(sent=0 if self.rank == 0 else 1, received=self.size - 1 if self.rank == 0 else 0, of=message)
        return None if box is None else self._unpack(box, payload, 1)[self._order]

    def bcast(self, payload: np.ndarray) -> np.ndarray:
        """Collective. Rank 0's payload; the others pass one of the same shape and dtype."""
        message = self._pack(payload, 2)
        self._run(self.comm.Ibcast(message, root=0))
        self._count(sent=self.size - 1 if self.rank == 0 else 0, received=0 if self.rank == 0 else 1, of=message)
        return np.asarray(self._unpack(message[None], payload, 2)[0])

    def allgather(self, payload: np.ndarray) -> np.ndarray:
        """Collective. Payloads of equal shape and dtype from all: (N, *shape) in the order of agents."""
        return np.asarray(self._allgather(payload)[self._order])

    def _allgather(self, payload: np.ndarray) -> np.ndarray:
        message = self._pack(payload, 3)
        box = np.empty((self.size, message.size), np.uint8)
        self._run(self.comm.Iallgather(message, box))
        self._count(sent=self.size - 1, received=self.size - 1, of=message)
        return self._unpack(box, payload, 3)

    def hear(self, payload: np.ndarray, speakers: np.ndarray) -> np.ndarray:
        """Collective. Payloads of equal shape and dtype from those whom this agent hears, to those who hear it.

        Args:
            speakers: (N, k), the same on all ranks: row i names the agents that agent i hears.

        Returns:
            (k, *shape), in the order of this agent's row.
        """
        message = self._pack(payload, 4)
        ranks = self._order[speakers[self.agent]]
        listeners = self._order[np.flatnonzero((speakers == self.agent).any(1))]
        box = np.empty((len(ranks), message.size), np.uint8)
        receiving = [self.comm.Irecv(row, source=rank) for row, rank in zip(box, ranks, strict=True)]
        self._run(*receiving, *(self.comm.Isend(message, dest=rank) for rank in listeners))
        self._count(sent=len(listeners), received=len(ranks), of=message)
        return self._unpack(box, payload, 4, ranks)

    def total(self, values: np.ndarray) -> np.ndarray:
        """Collective. The sum over all agents of float64 vectors of equal length; what a rank sends does not grow
        with their number.

        In fixed point: integers add up to the same in whatever order. Magnitudes must be below 8, for fewer than
        4096 agents; the error is below 2^-49 of each. Raises ValueError for larger ones.
        """
        if not (np.abs(values) < 8).all() or self.size >= 4096:
            raise ValueError(f"total: largest magnitude {np.abs(values).max()} of 8, {self.size} agents of 4095")
        numbers = np.rint(values * FIXED_POINT).astype(np.int64)
        message = np.concatenate([numbers, [MAGIC, 5, self.round, numbers.sum()]])
        result = np.empty_like(message)
        self._run(self.comm.Iallreduce(message, result, op=MPI.SUM))
        self._count(sent=1, received=1, of=message.view(np.uint8))
        magic, operation, round_, checksum = result[-TAIL:].tolist()
        due = (self.size * MAGIC, self.size * 5, self.size * (self.round - 1))
        if (magic, operation, round_) != due:
            raise WireError(f"a sum in round {self.round - 1}: the ranks' collectives are out of step")
        if checksum != result[:-TAIL].sum():
            raise WireError(f"a sum in round {self.round - 1} was damaged on its way (check sum differs)")
        return np.asarray(result[:-TAIL] / FIXED_POINT)

    def any(self, flag: bool) -> bool:
        """Collective. Whether the flag is up on any rank."""
        return bool(self.allgather(np.array([flag], np.uint8)).any())

    def texts(self, text: str) -> list[str]:
        """Collective. One text of each agent; for start-up, not for hot paths."""
        raw = np.frombuffer(text.encode(), np.uint8)
        sizes = self.allgather(np.array([raw.size], np.int64))[:, 0]
        padded = np.zeros(max(1, int(sizes.max())), np.uint8)
        padded[: raw.size] = raw
        return [row[:size].tobytes().decode() for row, size in zip(self.allgather(padded), sizes, strict=True)]

    def announce(self, text: str) -> str:
        """Collective. Rank 0's text; for start-up, not for hot paths."""
        raw = np.frombuffer(text.encode(), np.uint8)
        size = int(self.bcast(np.array([raw.size], np.int64))[0])
        return self.bcast(np.resize(raw, size) if raw.size else np.zeros(size, np.uint8)).tobytes().decode()

    def _run(self, *requests: MPI.Request) -> None:
        start = time.perf_counter()
        for request in requests:
            wait(request)
        self.seconds += time.perf_counter() - start
        self.round += 1

    def _count(self, *, sent: int, received: int, of: np.ndarray) -> None:
        self.sent += sent * of.size
        self.received += received * of.size

    def _pack(self, payload: np.ndarray, operation: int) -> np.ndarray:
        raw = np.ascontiguousarray(payload).reshape(-1).view(np.uint8)
        message = np.empty(HEADER.itemsize + raw.size, np.uint8)
        head = message[: HEADER.itemsize].view(HEADER)
        head[0] = (MAGIC, operation, self.round, self.agent, zlib.crc32(raw.data))
        message[HEADER.itemsize :] = raw
        return message

    def _unpack(
        self, box: np.ndarray, like: np.ndarray, operation: int, ranks: Iterable[int] | None = None
    ) -> np.ndarray:
        """(N, bytes) messages of `ranks` (default: 0, 1, ...) -> (N, *shape) payloads; each header is checked."""
        for rank, message in zip(count() if ranks is None else ranks, box, strict=False):
            head = message[: HEADER.itemsize].view(HEADER)[0]
            due = (MAGIC, operation, self.round - 1)
            if (int(head["magic"]), int(head["operation"]), int(head["round"])) != due:
                raise WireError(
                    f"message of rank {rank}: operation {head['operation']} of round {head['round']}, "
                    f"due here: {operation} of round {due[2]}; the ranks' collectives are out of step"
                )
            if int(head["crc"]) != zlib.crc32(message[HEADER.itemsize :].data):
                raise WireError(f"message of rank {rank} was damaged on its way (crc differs)")
        body = np.ascontiguousarray(box[:, HEADER.itemsize :])
        return body.view(like.dtype).reshape(len(box), *like.shape)
