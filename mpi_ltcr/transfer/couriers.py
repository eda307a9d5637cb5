"""How (s, a) reach the public memory M0 and its sample Phi_0 comes back: the bytes of Phase 2.

Vectors of a few numbers go to rank 0, which alone keeps M0, and the sample comes back from there.

Of pixels every rank keeps M0, and no sample is sent at all. A stack of four 84x84 frames has 28 kB; but the 40 stacks
that an agent meets in a round of Atari show 43 frames together, whereas 32 vectors drawn out of 50 000 have hardly a
frame in common. Bytes that cross the wire in a round, for the paper's two agents (an agent's 40 frames, N = 32):

    stacks to rank 0, sample back                                    1 129 000 + 903 000
    frames to rank 0, sample back                                      304 000 + 903 000
    frames to rank 0, sample back but for what the uploader kept       304 000 + 452 000
    frames to the other, sample by number                            2 x 304 000, both ways at once

So each rank sends its new frames to all others. All add the same rows in the same order and draw from generators of one
seed, so that not even the numbers must travel; a checksum of M0 goes with every upload, and a difference ends the job.
A rank pays with M0 in its memory, a frame for each vector. (From five agents on, a sample from rank 0 would be fewer
bytes to receive, and rank 0 the bottleneck.)
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from isal.isal_zlib import crc32

from mpi_ltcr.comm.collectives import Service, WireError
from mpi_ltcr.interfaces import EnvSpec, Features
from mpi_ltcr.memory.frame_ring import distinct_frames
from mpi_ltcr.memory.public import PublicMemory


class Draw(NamedTuple):
    """What all ranks know at the end of the journey."""

    rows: int
    """Vectors in M0; with 0 there is no sample."""
    returns: np.ndarray
    """Everyone's recent return (N,), by agent."""
    samples: list[Features]
    """One Phi_0 for all, or one of each teacher."""


class Courier(Protocol):
    """Both halves of the journey."""

    def upload(self, features: Features, recent: float) -> None:
        """Collective. This agent's fresh vectors into M0, all uploads in the order of agents; its recent return."""
        ...

    def draw(self) -> Draw:
        """Collective. The sample of a round, the same on every rank."""
        ...


class VectorCourier:
    """Through rank 0.

    Args:
        memory: M0 on rank 0, None elsewhere.
        most: vectors that an agent can upload in one round.
        samples, demonstrations: how many Phi_0 there are in a round, and the vectors of each.
        ranked: whether recent returns travel.
    """

    def __init__(
        self,
        *,
        service: Service,
        memory: PublicMemory | None,
        spec: EnvSpec,
        most: int,
        samples: int,
        demonstrations: int,
        ranked: bool,
    ) -> None:
        self.service, self.memory, self.ranked = service, memory, ranked
        vectors = np.dtype([("obs", spec.obs_dtype, spec.obs_shape), ("action", "<i8")])
        mine, everyones = ([("recent", "<f8", n)] if ranked else [] for n in ((), (service.size,)))
        self._upload = np.zeros((), [("count", "<i8"), *mine, ("phi", vectors, (most,))])
        self._sample = np.zeros((), [("rows", "<i8"), *everyones, ("phi", vectors, (samples, demonstrations))])
        # Parts of both: to look a field up takes as long as to fill it
        self._obs, self._action = (self._upload["phi"][name] for name in ("obs", "action"))
        self._drawn = [(phi["obs"], phi["action"]) for phi in self._sample["phi"]]

    def upload(self, features: Features, recent: float) -> None:
        count = len(features.action)
        self._upload["count"] = count
        self._obs[:count], self._action[:count] = features
        if self.ranked:
            self._upload["recent"] = recent
        uploads = self.service.gather(self._upload)
        if self.memory is not None and uploads is not None:
            for upload in uploads:
                phi = upload["phi"][: upload["count"]]
                self.memory.add(Features(phi["obs"], phi["action"]))
            if self.ranked:
                self._sample["recent"] = uploads["recent"]

    def draw(self) -> Draw:
        if self.memory is not None:
            self._sample["rows"] = len(self.memory)
            for obs, action in self._drawn if len(self.memory) else ():
                obs[:], action[:] = self.memory.sample(len(action))
        sample = self.service.bcast(self._sample)
        phi0 = [Features(np.ascontiguousarray(p["obs"]), np.ascontiguousarray(p["action"])) for p in sample["phi"]]
        return Draw(int(sample["rows"]), sample["recent"] if self.ranked else np.empty(0), phi0)


class FrameCourier:
    """To everybody, each frame of an upload once.

    Args:
        memory: this rank's M0, the same on all.
    Others: as for `VectorCourier`.
    """

    HEAD = np.dtype([("count", "<i8"), ("frames", "<i8"), ("recent", "<f8"), ("added", "<i8"), ("checksum", "<u4")])

    def __init__(
        self, *, service: Service, memory: PublicMemory, spec: EnvSpec, most: int, samples: int, demonstrations: int
    ) -> None:
        self.service, self.memory = service, memory
        self.samples, self.demonstrations = samples, demonstrations
        self.checksum = 0
        """Of the uploads since this attempt began."""
        self.returns = np.empty(0)
        stack, *frame = spec.obs_shape
        self._rows = [("numbers", "<i4", (most, stack)), ("action", "<i8", (most,))]
        self._frame, self._dtype = tuple(frame), spec.obs_dtype

    def upload(self, features: Features, recent: float) -> None:
        """As in `Courier`. How many frames there are is told first.

        Raises:
            WireError: the ranks' memories are not the same.
        """
        count = len(features.action)
        frames, numbers = distinct_frames(features.obs)
        head = np.array((count, len(frames), recent, self.memory.ring.added, self.checksum), self.HEAD)
        heads = self.service.allgather(head)
        self.returns = heads["recent"]
        for name in ("added", "checksum"):
            if (heads[name] != heads[name][0]).any():
                raise WireError(f"the agents' copies of M0 differ ({name}: {heads[name].tolist()})")
        longest = int(heads["frames"].max())
        if longest == 0:
            return
        parcel = np.zeros((), [*self._rows, ("frames", self._dtype, (longest, *self._frame))])
        parcel["numbers"][:count], parcel["action"][:count] = numbers, features.action
        parcel["frames"][: len(frames)] = frames
        for rows, received in zip(heads["count"], self.service.allgather(parcel), strict=True):
            self.memory.add(Features(received["frames"][received["numbers"][:rows]], received["action"][:rows]))
            self.checksum = crc32(np.ascontiguousarray(received).reshape(-1).view(np.uint8).data, self.checksum)

    def draw(self) -> Draw:
        rows = len(self.memory)
        samples = [self.memory.sample(self.demonstrations) for _ in range(self.samples if rows else 0)]
        return Draw(rows, self.returns, samples)
