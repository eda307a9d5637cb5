"""Small notices between ranks that nobody waits for."""

from __future__ import annotations

import numpy as np
from mpi4py import MPI

NOTICE = np.dtype([("kind", "<u4"), ("ok", "<u4"), ("label", "<u8"), ("bytes", "<u8"), ("sha256", "S64")])
SAVED, STOP = 1, 2
TAG = 3


class Mailbox:
    """Sends notices without waiting, and tells which have come.

    Args:
        comm: of all ranks.
    """

    def __init__(self, comm: MPI.Intracomm) -> None:
        self.comm = comm
        self._outbox: list[tuple[MPI.Request, np.ndarray]] = []

    def send(self, rank: int, kind: int, *, ok: bool = True, label: int = 0, size: int = 0, sha256: str = "") -> None:
        """Post a notice; its buffer is kept alive until it has left."""
        notice = np.zeros(1, NOTICE)
        notice[0] = (kind, ok, label, size, sha256.encode())
        self._outbox = [(request, kept) for request, kept in self._outbox if not request.Test()]
        self._outbox.append((self.comm.Isend(notice.view(np.uint8), rank, TAG), notice))

    def received(self) -> list[tuple[int, np.void]]:
        """(rank, notice) of everything that has arrived."""
        notices = []
        status = MPI.Status()
        while self.comm.Iprobe(MPI.ANY_SOURCE, TAG, status):
            notice = np.zeros(1, NOTICE)
            self.comm.Recv(notice.view(np.uint8), status.source, TAG)
            notices.append((status.source, notice[0]))
        return notices

    @property
    def empty(self) -> bool:
        """Whether every notice has left."""
        return all(request.Test() for request, _ in self._outbox)
