"""What can be asked of cA3C (CDRL)."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Literal

from jsonargparse.typing import ClosedUnitInterval, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from mpi_ltcr.config.checks import check_names, check_numbers, require
from mpi_ltcr.config.common import CheckpointConfig, EnvConfig, LogConfig, RuntimeConfig


@dataclass(frozen=True)
class A3CConfig:
    """Asynchronous advantage actor-critic (CDRL 3.2, constants of the authors' code)."""

    backend: Literal["eager", "fused"] = "eager"
    """`eager`: torch's autograd; `fused`: the same by hand in numpy, equal to rounding, faster."""
    torso: Literal["universe", "mlp"] = "universe"
    """Layers before the LSTM: the convolutions for 42x42 frames, or an MLP for vectors."""
    hidden: tuple[PositiveInt, ...] = (64,)
    """Widths of the MLP's layers."""
    lstm: PositiveInt = 256
    """Units of the LSTM (code)."""
    rollout: PositiveInt = 20
    """t_max, steps of a rollout (code), in each of a worker's games (`tasks.env.copies`)."""
    discount: ClosedUnitInterval = 0.99
    """gamma (code)."""
    gae_lambda: ClosedUnitInterval = 1.0
    """lambda of GAE (code)."""
    lr: PositiveFloat = 1e-4
    """Adam's step size, of all three optimisers (code)."""
    adam_eps: PositiveFloat = 1e-8
    """Adam's epsilon (code)."""
    grad_clip: NonNegativeFloat = 40.0
    """Largest global norm of each gradient: RL, distillation and alignment apart (code); 0 = never clipped."""
    value_coef: NonNegativeFloat = 0.25
    """Weight of the squared value error (code: half of half)."""
    entropy_coef: NonNegativeFloat = 0.01
    """Weight of the entropy bonus (CDRL 3.2, code)."""
    reward_scale: PositiveFloat = 1.0
    """The learner sees reward * reward_scale; the paper's rewards are raw."""

    def __post_init__(self) -> None:
        check_numbers(self, "agent.")
        require(
            self.torso != "mlp" or len(self.hidden) > 0,
            "agent.hidden: an mlp has at least one layer, e.g. agent.hidden: [64]",
        )


@dataclass(frozen=True)
class TeacherConfig:
    """One teacher of a task (CDRL 4.2). `task` names a task of this run, `checkpoint` a run directory of ours."""

    task: str = ""
    """Task whose network teaches: of this run (collaborative), or of the run at `checkpoint`."""
    checkpoint: str | None = None
    """Certificated teacher: a run directory, loaded read-only. None: collaborative, the task's newest weights."""
    layer: Literal["distill", "policy"] = "distill"
    """The student's layer that is distilled into (CDRL Fig. 2b, Fig. 4)."""
    align: Literal["network", "identity"] = "network"
    """Deep alignment network, or none (CDRL 4.2)."""
    alignment: str | None = None
    """Offline alignment: a run directory of `program: align`; F is loaded from it and stays frozen (CDRL 5.3)."""
    activation: Literal["relu", "elu"] = "relu"
    """Of the alignment network; elu is the authors' code."""
    direction: Literal["student||aligned", "aligned||student"] = "student||aligned"
    """Of the alignment loss; the second is the authors' code."""
    temperature: PositiveFloat = 1.0
    """tau of Eq. 3, on the teacher's side only (code: 1)."""
    state: Literal["own", "student"] = "own"
    """Recurrent state of the teacher: its own along the student's path, or the student's (the authors' code)."""
    t1: NonNegativeInt = 0
    """T1, the student's task step from which the alignment network is trained."""
    t2: NonNegativeInt = 0
    """T2, the step from which it is distilled."""
    t_stop: PositiveInt | None = None
    """The step from which neither is done any more; None: never."""

    def __post_init__(self) -> None:
        require(self.task != "", "tasks.teachers.task: name the task that teaches")
        require(self.t1 <= self.t2, f"tasks.teachers.t2: {self.t2} comes before t1: {self.t1}; align first, T1 <= T2")
        require(
            self.t_stop is None or self.t2 <= self.t_stop,
            f"tasks.teachers.t_stop: {self.t_stop} comes before t2: {self.t2}; nothing would ever be distilled",
        )
        require(
            self.alignment is None or self.align == "network",
            "tasks.teachers.alignment: is a network; set tasks.teachers.align: network",
        )


@dataclass(frozen=True)
class TaskConfig:
    """One game: its server, its workers, and from whom they learn."""

    name: str = "task"
    """Of the task, unique in the run."""
    env: EnvConfig = EnvConfig()
    """Its environment."""
    workers: NonNegativeInt = 0
    """Agents on this task; 0: as many as the top-level `workers` says."""
    rl: bool = True
    """GAE interaction. False: distillation only, as the students of CDRL Fig. 3a."""
    teachers: list[TeacherConfig] = field(default_factory=list)
    """None, one or several; each has its own alignment network."""

    def __post_init__(self) -> None:
        sound = re.fullmatch(r"[A-Za-z0-9._-]{1,90}", self.name) and self.name not in (".", "..")
        require(bool(sound), f"tasks.name: {self.name!r} is no name; use up to 90 letters, digits, '.', '_', '-'")


@dataclass(frozen=True)
class CA3CConfig:
    """One cA3C run, whole."""

    program: Literal["ca3c"] = "ca3c"
    """Which of the two papers."""
    name: str = "ca3c"
    """The start of the run directory's name, and the method's name in figures."""
    frames: PositiveInt = 20_000_000
    """T_max: agent steps of each task, all its workers together (code)."""
    seed: NonNegativeInt = 1
    """The seed from which every generator of the run is grown."""
    out: str | None = None
    """The run directory; a new name under runs/ where none is given."""
    workers: PositiveInt = 8
    """Workers of each task (CDRL 5.2)."""
    server: Literal["dedicated", "shared"] = "dedicated"
    """`dedicated`: one rank per task only serves; `shared`: it is the task's first worker as well."""
    agent: A3CConfig = A3CConfig()
    tasks: list[TaskConfig] = field(default_factory=list)
    """At least one."""
    log: LogConfig = LogConfig()
    checkpoint: CheckpointConfig = CheckpointConfig(every=500_000)
    runtime: RuntimeConfig = RuntimeConfig()

    def __post_init__(self) -> None:
        check_numbers(self)
        check_names(self.name, self.out)
        require(self.runtime.device != "cuda", "runtime.device: cA3C learns on the CPU; set it to cpu or auto")
        require(self.runtime.precision == "fp32", "runtime.precision: cA3C computes in fp32 only")
        require(len(self.tasks) > 0, "tasks: name at least one; see mpi_ltcr/presets/a3c-pong.yaml")
        names = [task.name for task in self.tasks]
        require(len(set(names)) == len(names), f"tasks.name: {names} are not all different")
        for task in self.tasks:
            require(
                not task.env.shared,
                "tasks.env.shared: each worker of cA3C plays games of its own; leave it out, and for several at a time "
                "set tasks.env.copies",
            )
            require(
                not task.env.kwargs.get("episodic_life"),
                "tasks.env.kwargs.episodic_life: an episode of cA3C is a whole game, as in the paper; leave it out",
            )
            for teacher in task.teachers:
                require(
                    teacher.checkpoint is not None or teacher.task in names,
                    f"tasks.teachers.task: {teacher.task} is no task of this run ({', '.join(names)}); "
                    "name one of them, or give tasks.teachers.checkpoint",
                )
                require(
                    teacher.checkpoint is not None or teacher.task != task.name,
                    f"tasks.teachers.task: {task.name} cannot be its own teacher; name another task",
                )

    def workers_of(self, task: TaskConfig) -> int:
        """Workers of one task."""
        return int(task.workers or self.workers)

    @property
    def ranks(self) -> int:
        """How many ranks this run needs."""
        servers = len(self.tasks) if self.server == "dedicated" else 0
        return servers + sum(self.workers_of(task) for task in self.tasks)

    def check_team(self, size: int) -> None:
        """Raise ConfigError unless this many ranks can run it."""
        require(
            size == self.ranks,
            f"workers: {self._crew()} need {self.ranks} ranks, {size} started; use mpirun -n {self.ranks}",
        )

    def _crew(self) -> str:
        counts = " and ".join(f"{self.workers_of(task)} of {task.name}" for task in self.tasks)
        servers = f" with {len(self.tasks)} dedicated servers" if self.server == "dedicated" else ""
        return f"{counts}{servers}"

    def environments(self) -> list[EnvConfig]:
        """Every environment that the run will make."""
        return [dataclasses.replace(task.env) for task in self.tasks]
