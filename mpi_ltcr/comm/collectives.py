"""Collectives of one service over numpy buffers, on a communicator of its own. No pickle, no size exchange.

Every call is non-blocking underneath, so that Python's signal handlers run while it is waited for (`waiting.py`).

Results are in the order of agents, not of ranks: nothing that is computed from them depends on who sits where.

Each message has a header, which is checked where it arrives. It carries a ledger as well: a rolling hash of every
collective so far (operation, type, size) and the line that called. Ranks that took another branch are told of at their
next meeting, with both lines, before they compute with each other's numbers. Where they do not meet at all, the
watchdog tells.
"""

from __future__ import annotations

import functools
import os
import struct
import sys
import time
from collections.abc import Iterable, Sequence
from itertools import count
from types import CodeType
from typing import Any, NoReturn

import numpy as np
from isal.isal_zlib import crc32
from mpi4py import MPI

from mpi_ltcr.comm import launch
from mpi_ltcr.comm.pulse import Wait, pulse
from mpi_ltcr.comm.waiting import waiting

MAGIC, VERSION = 0x4C544352, 3  # "LTCR"
FNV_PRIME = 0x100000001B3
GATHER, BCAST, ALLGATHER, HEAR, TOTAL = 1, 2, 3, 4, 5
NAMES = {GATHER: "gather", BCAST: "bcast", ALLGATHER: "allgather", HEAR: "hear", TOTAL: "total"}
HEADER = struct.Struct("<IIHHQQQIc19sI")
FIELDS = (
    "crc",  # of all the rest of the message
    "magic",
    "version",  # of this header
    "operation",
    "round",  # number of the collective on this service
    "ledger",  # of all collectives before and of this one
    "bytes",  # of the payload
    "item",  # size of an element
    "kind",  # of an element, numpy's letter
    "site",  # who called, e.g. "session:158"
    "agent",
)
CRC = struct.Struct("<I")
ALIKE = slice(CRC.size, CRC.size + struct.calcsize("<IHHQQQIc"))
"""Where a header is the same on all ranks that are in step: from the magic number to the kind."""
FIXED_POINT, TAIL = 2.0**48, 4
"""Of `Service.total`: steps in 1, and the integers behind its payload that are checked."""


class WireError(RuntimeError):
    """A message that is not the one that was due: damaged, of another round, or of another operation."""


def seal(message: np.ndarray) -> None:
    """Write the checksum of a message, which is the first field of its header."""
    CRC.pack_into(message.data, 0, _checksum(message))


def _checksum(message: np.ndarray) -> int:
    return crc32(message[CRC.size :].data)


def call_site() -> bytes:
    """The line outside this file that asked for a collective, e.g. b"session:158"."""
    frame = sys._getframe(1)
    while frame.f_code.co_filename == __file__ and frame.f_back:
        frame = frame.f_back
    return _name_of_site(frame.f_code, frame.f_lineno)


@functools.cache
def _name_of_site(code: CodeType, line: int) -> bytes:
    stem = os.path.basename(code.co_filename).removesuffix(".py")
    return f"{stem[:13]}:{line}".encode()


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
        self.round = self.ledger = 0
        self.agent, self._alike = agent, b""
        self.agents, self._members, self._number = np.full(self.size, -1), tuple(range(self.size)), 0
        self.agents, members = self._allgather(np.array([agent, launch.rank()], np.int64)).T
        self._members = tuple(members.tolist())  # ranks of the whole job
        self._number = pulse.communicator(self._members)
        self._order = np.argsort(self.agents)

    def gather(self, payload: np.ndarray) -> np.ndarray | None:
        """Collective. Payloads of equal shape and dtype to rank 0: (N, *shape) by agent; None elsewhere."""
        message = self._pack(payload, GATHER)
        box = np.empty((self.size, message.size), np.uint8) if self.rank == 0 else None
        self._run(self.comm.Igather(message, box, root=0), operation=GATHER)
        self._count(sent=0 if self.rank == 0 else 1, received=self.size - 1 if self.rank == 0 else 0, of=message)
        return None if box is None else self._unpack(box, payload, GATHER)[self._order]

    def bcast(self, payload: np.ndarray) -> np.ndarray:
        """Collective. Rank 0's payload; the others pass one of the same shape and dtype."""
        message = self._pack(payload, BCAST)
        self._run(self.comm.Ibcast(message, root=0), operation=BCAST)
        self._count(sent=self.size - 1 if self.rank == 0 else 0, received=0 if self.rank == 0 else 1, of=message)
        return np.asarray(self._unpack(message[None], payload, BCAST)[0])

    def allgather(self, payload: np.ndarray) -> np.ndarray:
        """Collective. Payloads of equal shape and dtype from all: (N, *shape) in the order of agents."""
        return np.asarray(self._allgather(payload)[self._order])

    def _allgather(self, payload: np.ndarray) -> np.ndarray:
        message = self._pack(payload, ALLGATHER)
        box = np.empty((self.size, message.size), np.uint8)
        self._run(self.comm.Iallgather(message, box), operation=ALLGATHER)
        self._count(sent=self.size - 1, received=self.size - 1, of=message)
        return self._unpack(box, payload, ALLGATHER)

    def hear(self, payload: np.ndarray, speakers: np.ndarray) -> np.ndarray:
        """Collective. Payloads of equal shape and dtype from those whom this agent hears, to those who hear it.

        Args:
            speakers: (N, k), the same on all ranks: row i names the agents that agent i hears.

        Returns:
            (k, *shape), in the order of this agent's row.
        """
        message = self._pack(payload, HEAR)
        ranks = self._order[speakers[self.agent]]
        listeners = self._order[np.flatnonzero((speakers == self.agent).any(1))]
        box = np.empty((len(ranks), message.size), np.uint8)
        receiving = [self.comm.Irecv(row, source=rank) for row, rank in zip(box, ranks, strict=True)]
        sending = [self.comm.Isend(message, dest=rank) for rank in listeners]
        self._run(*receiving, *sending, operation=HEAR, ranks=ranks.tolist())
        self._count(sent=len(listeners), received=len(ranks), of=message)
        return self._unpack(box, payload, HEAR, ranks)

    def total(self, values: np.ndarray) -> np.ndarray:
        """Collective. The sum over all agents of float64 vectors of equal length; what a rank sends does not grow
        with their number.

        In fixed point: integers add up to the same in whatever order. Magnitudes must be below 8, for fewer than
        4096 agents; the error is below 2^-49 of each. Raises ValueError for larger ones.
        """
        if not (np.abs(values) < 8).all() or self.size >= 4096:
            raise ValueError(f"total: largest magnitude {np.abs(values).max()} of 8, {self.size} agents of 4095")
        numbers = np.rint(values * FIXED_POINT).astype(np.int64)
        message = np.concatenate([numbers, [MAGIC, TOTAL, self.round, numbers.sum()]])
        result = np.empty_like(message)
        self._run(self.comm.Iallreduce(message, result, op=MPI.SUM), operation=TOTAL)
        self._count(sent=1, received=1, of=message.view(np.uint8))
        magic, operation, round_, checksum = result[-TAIL:].tolist()
        due = (self.size * MAGIC, self.size * TOTAL, self.size * (self.round - 1))
        if (magic, operation, round_) != due:
            raise WireError(f"a sum in round {self.round - 1}: the ranks' collectives are out of step")
        if checksum != result[:-TAIL].sum():
            raise WireError(f"a sum in round {self.round - 1} was damaged on its way (check sum differs)")
        return np.asarray(result[:-TAIL] / FIXED_POINT)

    def any(self, flag: bool) -> bool:
        """Collective. Whether the flag is up on any rank."""
        if self.size == 1:
            pulse.beat()
            return flag
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

    def _run(self, *requests: MPI.Request, operation: int, ranks: Sequence[int] | None = None) -> None:
        """Wait for all of them; for `ranks` (of this communicator) alone, or for everybody."""
        start = time.perf_counter()
        what = f"{NAMES[operation]} at {call_site().decode()}"
        if ranks is None:
            pulse.join(Wait(f"the others in {what}", self._members, (self._number, self.round)))
        else:  # some may be a round ahead: it is no place where all meet
            pulse.join(Wait(f"those whom it hears in {what}", tuple(self._members[rank] for rank in ranks)))
        try:
            for request in requests:
                waiting.until(request)
        except MPI.Exception as error:  # e.g. truncated: somebody sent more than was due
            raise WireError(f"{what}, round {self.round}: {error}; the ranks' collectives are out of step") from None
        pulse.beat()
        self.seconds += time.perf_counter() - start
        self.round += 1

    def _count(self, *, sent: int, received: int, of: np.ndarray) -> None:
        self.sent += sent * of.size
        self.received += received * of.size

    def _pack(self, payload: np.ndarray, operation: int) -> np.ndarray:
        dtype, raw = payload.dtype, np.ascontiguousarray(payload).reshape(-1).view(np.uint8)
        for fact in (operation, raw.size, dtype.itemsize, ord(dtype.kind)):
            self.ledger = (self.ledger ^ fact) * FNV_PRIME % 2**64
        message = np.empty(HEADER.size + raw.size, np.uint8)
        told = (MAGIC, VERSION, operation, self.round, self.ledger, raw.size, dtype.itemsize, dtype.kind.encode())
        HEADER.pack_into(message.data, 0, 0, *told, call_site(), self.agent)
        message[HEADER.size :] = raw
        seal(message)
        self._alike = message[ALIKE].tobytes()
        return message

    def _unpack(
        self, box: np.ndarray, like: np.ndarray, operation: int, ranks: Iterable[int] | None = None
    ) -> np.ndarray:
        """(N, bytes) messages of `ranks` (default: 0, 1, ...) -> (N, *shape) payloads; each header is checked.

        Raises:
            WireError: naming the rank whose message is not the one that was due, and both call sites.
        """
        for rank, message in zip(count() if ranks is None else ranks, box, strict=False):
            crc, *_, agent = HEADER.unpack_from(message.data)
            due = self.agents[0 if operation == BCAST else rank]
            if message[ALIKE].tobytes() != self._alike or crc != _checksum(message) or due not in (-1, agent):
                self._complain(rank, message, like, operation)
        body = np.ascontiguousarray(box[:, HEADER.size :])
        return body.view(like.dtype).reshape(len(box), *like.shape)

    def _complain(self, rank: int, message: np.ndarray, like: np.ndarray, operation: int) -> NoReturn:
        """Raise WireError: why this is not the message of the collective that was due, from whom it was due."""
        head: dict[str, Any] = dict(zip(FIELDS, HEADER.unpack_from(message.data), strict=True))
        size = message.size - HEADER.size
        if (head["magic"], head["version"]) != (MAGIC, VERSION):
            raise WireError(
                f"message of rank {rank}: of another program or another version of this one; start all ranks alike"
            )
        if head["bytes"] == size and head["crc"] != _checksum(message):
            raise WireError(f"message of rank {rank} was damaged on its way (crc differs)")
        told = head["operation"], head["round"], head["ledger"], head["bytes"], head["item"], head["kind"]
        due = (operation, self.round - 1, self.ledger, size, like.dtype.itemsize, like.dtype.kind.encode())
        if told == due:
            raise WireError(f"message of rank {rank} is agent {head['agent']}'s; it was delivered twice")
        site = head["site"].rstrip(b"\0").decode(errors="replace")
        theirs = f"{NAMES.get(told[0], told[0])} at {site}, round {told[1]}"
        ours = f"{NAMES[operation]} at {call_site().decode()}, round {due[1]}"
        kind = head["kind"].decode(errors="replace")
        sizes = f"{told[3]} bytes of {kind}{told[4]} for {size} of {like.dtype.kind}{due[4]}"
        told_by = f"message of rank {rank} is of {theirs}, due here: {ours} ({sizes})"
        raise WireError(f"the ranks' collectives are out of step: {told_by}")
