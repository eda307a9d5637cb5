"""What can be asked of the offline alignment (CDRL 5.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jsonargparse.typing import NonNegativeInt, PositiveFloat, PositiveInt

from mpi_ltcr.config.checks import check_names, check_numbers, require
from mpi_ltcr.config.common import EnvConfig, RuntimeConfig


@dataclass(frozen=True)
class CertificateConfig:
    """A trained task of another run."""

    checkpoint: str = ""
    """Its run directory, loaded read-only."""
    task: str = ""
    """The task's name there."""

    def __post_init__(self) -> None:
        require(bool(self.checkpoint) == bool(self.task), "checkpoint and task belong together; give both")


@dataclass(frozen=True)
class AlignConfig:
    """Offline training of an alignment network (CDRL 4.2 and 5.3, first stage)."""

    program: Literal["align"] = "align"
    """Which program."""
    name: str = "align"
    """The start of the run directory's name."""
    frames: PositiveInt = 100_000
    """States at which both experts' logits are collected, along the play of the student task's expert."""
    seed: NonNegativeInt = 1
    """The seed from which every generator of the run is grown."""
    out: str | None = None
    """The run directory; a new name under runs/ where none is given."""
    teacher: CertificateConfig = CertificateConfig()
    """The expert of the source task (CDRL: Pong, return 20)."""
    expert: CertificateConfig = CertificateConfig()
    """The expert of the student's task (CDRL: Bowling, return 60)."""
    activation: Literal["relu", "elu"] = "relu"
    """Of the alignment network; elu is the authors' code."""
    direction: Literal["student||aligned", "aligned||student"] = "student||aligned"
    """Of the loss; the second is the authors' code."""
    temperature: PositiveFloat = 1.0
    """tau of Eq. 3."""
    lr: PositiveFloat = 1e-4
    """Adam's step size."""
    batch: PositiveInt = 256
    """Pairs of logits in one update."""
    epochs: PositiveInt = 100
    """Passes over the pairs at most."""
    patience: PositiveInt = 5
    """Passes without a better loss on the held-out tenth before it stops."""
    runtime: RuntimeConfig = RuntimeConfig()

    def __post_init__(self) -> None:
        check_numbers(self)
        check_names(self.name, self.out)
        require(self.runtime.precision == "fp32", "runtime.precision: alignment networks compute in fp32 only")
        require(self.frames >= 2 * self.batch, f"frames: {self.frames} is less than two of batch: {self.batch}")

    def environments(self) -> list[EnvConfig]:
        """None of its own: the experts' runs name theirs."""
        return []

    def check_team(self, size: int) -> None:
        """Raise ConfigError unless there is one rank, and both experts are named."""
        require(size == 1, f"program: align is for one process, {size} started; leave mpirun out")
        for field_name in ("teacher", "expert"):
            given = getattr(self, field_name).checkpoint != ""
            require(given, f"{field_name}.checkpoint: give the run directory of a trained task, and {field_name}.task")
