"""What can be asked of LTCR's exchange."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from jsonargparse.typing import ClosedUnitInterval, NonNegativeInt, PositiveFloat, PositiveInt

from mpi_ltcr.config.checks import require


@dataclass(frozen=True)
class TransferConfig:
    """How teammates teach each other (LTCR section 3)."""

    method: Literal["public_memory", "none"] = "public_memory"
    """`public_memory` is LTCR through M0, `none` is learning independently."""
    revisit: NonNegativeInt = 9
    """First number of the ratio Revisit : Digest, 9 in 9-1-LTCR (LTCR 4.2)."""
    digest: NonNegativeInt = 1
    """Second number of the ratio, 1 in 9-1-LTCR (LTCR 4.2)."""
    cycle: PositiveInt = 10
    """Gradient slots, and so updates, in one round of the four phases (ref)."""
    demonstrations: PositiveInt = 32
    """N, vectors in the sample Phi_0 of a round (ref)."""
    upload_probability: ClosedUnitInterval = 1.0
    """Share of explored (s, a) that go to M0 (ref)."""
    memory_size: PositiveInt = 50_000
    """Feature vectors that M0 holds, the oldest leave (ref)."""
    subset: Literal["common", "per_teacher"] = "common"
    """`common`: one Phi_0 for all; `per_teacher`: each teacher draws its own (LTCR 3.1, literally)."""
    target: Literal["peer", "mean"] = "peer"
    """`peer`: Eq. 6 with each teacher; `mean`: the average of one's teachers and oneself (LTCR 3.2)."""
    lesson: Literal["values", "policy"] = "values"
    """What is told at a state: `values`, the masses of Z(s, a) (LTCR Eq. 6), or `policy`, pi(. | s), which any kind of
    agent has."""
    temperature: PositiveFloat = 1.0
    """tau of softmax(Q / tau), the policy of an agent that knows only values; in scaled reward."""
    topology: Literal["all", "ring", "random-k", "best-k"] = "all"
    """Who teaches: `all` teammates (LTCR 3.1), the one before (`ring`), `k` drawn anew each round, or the `k` best."""
    k: PositiveInt = 1
    """Teachers of each student in `random-k` and in `best-k` (by mean return of their last 10 episodes)."""
    exchange: Literal["allgather", "allreduce"] = "allgather"
    """`allreduce`: the mean of all comes as one sum, whose size does not grow with the team."""
    speak_net: Literal["online", "target"] = "online"
    """The network that answers as a teacher (ref)."""
    digest_adam: Literal["shared", "own"] = "shared"
    """Moments of Digest's Adam: `shared` with Revisit (ref), so that a step is small where there is little to learn; or
    its `own`, as FedMD, whose steps are full ones however small the KL is, which drives teammates apart."""
    start: NonNegativeInt = 500
    """Frames before the first exchange: explore first (ref: the agents' warm-up)."""

    def __post_init__(self) -> None:
        parts = self.revisit + self.digest
        require(parts > 0, "transfer.revisit: 0:0 leaves nothing to do; the paper's ratios are 9:1, 7:3 and 5:5")
        require(
            self.cycle * self.digest % parts == 0,
            f"transfer.cycle: {self.cycle} slots cannot be divided {self.revisit}:{self.digest}; "
            f"take a multiple of {parts // math.gcd(parts, self.digest)}",
        )
        require(
            not (self.subset == "per_teacher" and self.target == "mean"),
            "transfer.target: mean needs every teacher's answer on the same vectors: set transfer.subset: common",
        )
        require(
            self.exchange == "allgather" or (self.target, self.topology) == ("mean", "all"),
            "transfer.exchange: allreduce adds up the answers of all: set transfer.target: mean and "
            "transfer.topology: all",
        )
        require(
            self.method == "none" or self.digest > 0,
            "transfer.digest: 0 makes the exchange useless; to learn alone set transfer.method: none",
        )
        require(
            self.method == "public_memory" or self.digest == 0,
            f"transfer.digest: {self.digest} has no lessons with transfer.method: none; set transfer.digest: 0",
        )
        require(
            self.method == "none" or self.upload_probability > 0,
            "transfer.upload_probability: 0 leaves M0 empty; take a value in (0, 1]",
        )
        require(
            self.demonstrations <= self.memory_size,
            f"transfer.demonstrations: {self.demonstrations} is more than transfer.memory_size holds: "
            f"{self.memory_size}",
        )

    @property
    def digest_slots(self) -> int:
        """Digest updates in one round."""
        return self.cycle * self.digest // (self.revisit + self.digest)

    @property
    def revisit_slots(self) -> int:
        """Revisit updates in one round."""
        return self.cycle - self.digest_slots
