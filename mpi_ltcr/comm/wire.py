"""The messages between a parameter server and its workers: a fixed header, then numbers.

A request's body is returns of episodes (float64) and then gradients, an answer's is weights (float32).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from isal.isal_zlib import crc32

from mpi_ltcr.comm.collectives import WireError

MAGIC = 0x43444C52  # "RLDC"
REQUEST, REPLY = 1, 2
PULL, STOP_ASKED, BYE = 1 << 29, 1 << 30, 1 << 31
STOP, SAVE = 1, 2

REQUEST_HEADER = np.dtype(
    [
        ("magic", "<u4"),
        ("content", "<u4"),  # bit i: a gradient of kind i is in it; and PULL, STOP_ASKED, BYE
        ("sequence", "<u8"),
        ("version", "<u8"),  # of the weights that the gradients were computed with
        ("steps", "<u4"),  # agent steps since the last exchange
        ("episodes", "<u4"),  # whose returns are in it: those that ended since
        ("unused", "<u4"),
        ("crc", "<u4"),  # of all the rest of the message
    ]
)
REPLY_HEADER = np.dtype(
    [
        ("magic", "<u4"),
        ("order", "<u4"),  # bits: STOP, SAVE
        ("version", "<u8"),
        ("frames", "<u8"),  # T
        ("label", "<u8"),  # of the checkpoint to SAVE
        ("unused", "<u4"),
        ("crc", "<u4"),
    ]
)


class Push(NamedTuple):
    """One served request, for the log."""

    worker: int
    staleness: int
    """Updates between the weights that the gradient was computed with and those it is applied to."""
    queue: int
    """Requests that were waiting when it was taken."""
    steps: int
    bytes: int


class Reply(NamedTuple):
    """What a worker gets back."""

    version: int
    frames: int
    """T, the task's counter, when the weights were sent."""
    order: int
    label: int


def _checksum(head: np.ndarray, body: np.ndarray) -> int:
    """Of a message without its checksum, which is the last field of the header."""
    return crc32(body.data, crc32(head[:-4].data))


def fill_header(message: np.ndarray, dtype: np.dtype, *fields: float, away: bool) -> None:
    """Write a header before a body that is in place already; with a checksum if it goes to another process."""
    head, body = message[: dtype.itemsize], message[dtype.itemsize :]
    head.view(dtype)[0] = (MAGIC, *fields, 0)
    if away:
        head.view(dtype)["crc"] = _checksum(head, body)


def checked_header(message: np.ndarray, dtype: np.dtype, what: str, *, away: bool) -> np.void:
    """The header of a message that is whole; `away`: it came from another process. Raises WireError."""
    head, body = message[: dtype.itemsize], message[dtype.itemsize :]
    fields: np.void | None = head.view(dtype)[0] if len(head) == dtype.itemsize else None
    if fields is None or int(fields["magic"]) != MAGIC or (away and int(fields["crc"]) != _checksum(head, body)):
        raise WireError(f"{what} was damaged on its way, or is of another version")
    return fields


class Request:
    """The memory that requests of one worker are written into, one after the other: new pages would cost more than
    what is copied into them."""

    def __init__(self) -> None:
        self.memory = np.empty(0, np.uint8)

    def write(self, fields: Sequence[int], body: Sequence[np.ndarray], *, away: bool) -> np.ndarray:
        """A message, which stands until the next one. For the rest see `fill_header`."""
        size = REQUEST_HEADER.itemsize + sum(part.nbytes for part in body)
        if size > len(self.memory):
            self.memory = np.empty(size, np.uint8)
        message, end = self.memory[:size], REQUEST_HEADER.itemsize
        for part in body:
            start, end = end, end + part.nbytes
            message[start:end] = part.view(np.uint8)
        fill_header(message, REQUEST_HEADER, *fields, away=away)
        return message
