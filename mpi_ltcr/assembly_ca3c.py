"""The composition root of cA3C: configuration and role -> what one rank owns, a task's parameters or a worker."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from mpi_ltcr import envs, options
from mpi_ltcr.agents.a3c import A3CAgent
from mpi_ltcr.agents.a3c_fused import FusedA3CAgent
from mpi_ltcr.archive import checkpoint
from mpi_ltcr.archive.rundir import RunDirectory
from mpi_ltcr.config import A3CConfig, AlignConfig, CA3CConfig, ConfigError, TaskConfig, TeacherConfig
from mpi_ltcr.interaction import EnvLoop
from mpi_ltcr.interfaces import EnvSpec, State
from mpi_ltcr.nets.alignment import AlignmentNetwork
from mpi_ltcr.nets.flat import count, flatten
from mpi_ltcr.nets.universe import MLPTorso, RecurrentActorCritic, UniverseTorso
from mpi_ltcr.seeds import TEAM, SeedTree
from mpi_ltcr.steppers import ParameterStore, PushStepper
from mpi_ltcr.transfer.alignment import Alignment, AlignmentTransfer, Teacher

SERVER_FILE, ALIGNMENT_FILE = "server.h5", "alignment.h5"
Stage = Callable[[str, np.ndarray], None]


class Worker(NamedTuple):
    """What a worker owns. Its parameters are copies of the server's."""

    agent: A3CAgent
    games: list[EnvLoop]
    transfers: list[AlignmentTransfer]
    rollout_length: int

    def load_values(self, values: np.ndarray) -> None:
        """Take over what a server serves: (P + Q,), the task's network, then its alignment networks."""
        start = len(self.agent.flat.values)
        self.agent.load_weights(values[:start])
        for transfer in self.transfers:
            flat = transfer.align.flat
            if flat is not None and transfer.align.stepper is not None:
                end = start + len(flat.values)
                flat.values.copy_(torch.from_numpy(values[start:end]))
                start = end


def build_network(agent: A3CConfig, spec: EnvSpec, generator: torch.Generator) -> RecurrentActorCritic:
    """The network of a task (reference: the universe starter agent), or its small cousin for vectors."""
    torso: UniverseTorso | MLPTorso
    if agent.torso == "universe":
        torso = UniverseTorso(channels=spec.obs_shape[0], generator=generator)
        if spec.obs_shape[1:] != torso.obs_shape[1:]:
            raise ConfigError(f"agent.torso: universe needs 42x42 frames, not {spec.obs_shape}; set agent.torso: mlp")
    else:
        size = int(np.prod(spec.obs_shape))
        torso = MLPTorso(obs_size=size, widths=tuple(agent.hidden), generator=generator)
    return RecurrentActorCritic(torso=torso, num_actions=spec.num_actions, hidden=int(agent.lstm), generator=generator)


def parameters_of(agent: A3CConfig, spec: EnvSpec) -> int:
    """How many a task's network has; it is not made."""
    return count(lambda generator: build_network(agent, spec, generator))


def spec_of(env: Any) -> EnvSpec:
    """The spec of an `EnvConfig`'s environment."""
    made = envs.make(env.id, env.kwargs)
    spec = envs.spec_of(env.id, made)
    made.close()
    return spec


class Teaching(NamedTuple):
    """What is known of a teacher before it is built: its network, and for a certificated one its weights."""

    config: TeacherConfig
    agent: A3CConfig
    spec: EnvSpec
    weights: np.ndarray | None

    @property
    def parameters(self) -> int:
        """P of the teacher's network."""
        return parameters_of(self.agent, self.spec)

    @property
    def trains_alignment(self) -> bool:
        """Whether an alignment network is trained online, so that the student's server owns it."""
        return self.config.align == "network" and self.config.alignment is None


def load_teaching(config: CA3CConfig, task: TaskConfig, teacher: TeacherConfig) -> Teaching:
    """Check and load a teacher of `task`.

    Raises:
        ConfigError: it does not fit: other observations, other actions without an alignment network, not ours, damaged.
    """
    student = spec_of(task.env)
    if teacher.checkpoint is None:
        source: CA3CConfig = config
        weights = None
    else:
        source, weights = certificate(Path(teacher.checkpoint), teacher.task, "tasks.teachers.")
    theirs = next(t for t in source.tasks if t.name == teacher.task)
    spec = spec_of(theirs.env)
    check_sight(spec, student, f"tasks.teachers.task: {teacher.task}", task.name)
    if teacher.align == "identity" and spec.num_actions != student.num_actions:
        raise ConfigError(
            f"tasks.teachers.align: identity is impossible from {spec.num_actions} actions ({teacher.task}) to "
            f"{student.num_actions} ({task.name}); set align: network"
        )
    teaching = Teaching(teacher, source.agent, spec, weights)
    if weights is not None and len(weights) != teaching.parameters:
        raise ConfigError(
            f"tasks.teachers.checkpoint: {teacher.checkpoint} holds {len(weights)} parameters of {teacher.task}, its "
            f"network has {teaching.parameters}"
        )
    if teacher.alignment is not None:
        build_alignment(teaching, student, torch.Generator(), None, 0)  # fits, or is refused
    return teaching


def check_sight(teacher: EnvSpec, student: EnvSpec, who: str, whose: str) -> None:
    """Raise ConfigError unless the network of one task can see the states of another one."""
    if (teacher.obs_shape, teacher.obs_dtype) != (student.obs_shape, student.obs_dtype):
        raise ConfigError(
            f"{who} sees {teacher.obs_shape} {teacher.obs_dtype}, {whose} {student.obs_shape} {student.obs_dtype}; "
            "a teacher must be able to see the student's states"
        )


def certificate(run: Path, task: str, field: str) -> tuple[CA3CConfig, np.ndarray]:
    """The configuration and a task's newest weights of another run, read-only and verified.

    Args:
        field: where it was asked for, e.g. "tasks.teachers.".

    Raises:
        ConfigError: not a run of cA3C, without this task, or its newest checkpoint is damaged.
    """
    source = _config_of(run, f"{field}checkpoint")
    names = [str(t.name) for t in source.tasks] if isinstance(source, CA3CConfig) else []
    if task not in names:
        raise ConfigError(f"{field}task: {run} has no task {task}, only {', '.join(names) or 'none of cA3C'}")
    store = _newest(RunDirectory(run).task_checkpoints(task), SERVER_FILE, f"{field}checkpoint")["store"]
    return source, store["values"][: store["network"]]


def _config_of(run: Path, field: str) -> Any:
    if not (run / "config.yaml").is_file():
        raise ConfigError(f"{field}: {run} is not a run directory (no config.yaml)")
    return options.load_file(run / "config.yaml")


def _newest(checkpoints: Path, name: str, field: str) -> State:
    """A file of the newest checkpoint. An older one would teach something else than was asked for: it is not taken."""
    try:
        folder, refused = checkpoint.newest_whole(checkpoints)
        if refused:
            raise ConfigError(f"{field}: {checkpoints}: {refused[0]}; to take {folder.name}, remove the damaged one")
        return checkpoint.load_file(folder / name)
    except checkpoint.CheckpointError as error:
        raise ConfigError(f"{field}: {error}") from None


def build_alignment(
    teaching: Teaching,
    student: EnvSpec,
    generator: torch.Generator,
    stage: Callable[[np.ndarray], None] | None,
    grad_clip: float,
) -> Alignment:
    """F between a teacher and a student; `stage` takes the gradients of an F that is trained."""
    config = teaching.config
    network, flat, stepper = None, None, None
    if config.align == "network":
        network = AlignmentNetwork(
            num_teacher_actions=teaching.spec.num_actions,
            num_student_actions=student.num_actions,
            activation=config.activation,
            generator=generator,
        )
        flat = flatten(network)
        if config.alignment is not None:
            flat.values.copy_(torch.from_numpy(load_alignment(Path(config.alignment), len(flat.values))))
        elif stage is not None:
            stepper = PushStepper(flat=flat, stage=stage, grad_clip=grad_clip, name="align")
    return Alignment(
        network=network, flat=flat, stepper=stepper, temperature=config.temperature, direction=config.direction
    )


def load_alignment(run: Path, size: int) -> np.ndarray:
    """omega of an offline-trained F (`program: align`). Raises ConfigError if there is none, or of another shape."""
    field = "tasks.teachers.alignment"
    if not isinstance(_config_of(run, field), AlignConfig):
        raise ConfigError(f"{field}: {run} is no run of program: align; mpi-ltcr train cdrl-offline-align makes one")
    values: np.ndarray = _newest(RunDirectory(run).checkpoints, ALIGNMENT_FILE, field)["values"]
    if values.shape != (size,):
        raise ConfigError(f"tasks.teachers.alignment: {run} holds {values.size} parameters, this pair needs {size}")
    return values


def build_store(config: CA3CConfig, task_index: int, teachings: list[Teaching]) -> ParameterStore:
    """A task's parameters in their first state, and the optimisers that change them."""
    task = config.tasks[task_index]
    seeds = SeedTree(config.seed)
    spec = spec_of(task.env)
    generator = torch.Generator().manual_seed(seeds.integer(TEAM, "weights", task_index))
    vectors = [flatten(build_network(config.agent, spec, generator)).values]
    for number, teaching in enumerate(t for t in teachings if t.trains_alignment):
        generator = torch.Generator().manual_seed(seeds.integer(TEAM, "weights", task_index, number))
        flat = build_alignment(teaching, spec, generator, None, 0).flat
        assert flat is not None
        vectors.append(flat.values)
    values = torch.cat(vectors).numpy()
    sizes = [len(vector) for vector in vectors]
    return ParameterStore(values=values, sizes=sizes, lr=config.agent.lr, eps=config.agent.adam_eps)


def served_values(config: CA3CConfig, task_index: int) -> int:
    """Length of the vector that a task's server serves."""
    task = config.tasks[task_index]
    teachings = [load_teaching(config, task, teacher) for teacher in task.teachers]
    return len(build_store(config, task_index, teachings).values)


def build_worker(
    config: CA3CConfig,
    task: TaskConfig,
    number: int,
    teachings: list[Teaching],
    newest: list[Callable[[], np.ndarray] | None],
    stage: Stage,
    idle: Callable[[], object],
) -> Worker:
    """Worker number `number` of the run.

    Args:
        newest: for each teacher, how its newest weights are fetched (None for a certificated one).
        stage: takes (kind, gradient) into the next message to the server.
        idle: called after each environment step (a server on the same rank is polled there).
    """
    seeds, settings = SeedTree(config.seed), config.agent
    branches: list[tuple[int, ...]] = [(), *((game,) for game in range(1, task.env.copies))]
    games = [
        EnvLoop(
            env=envs.make(task.env.id, task.env.kwargs),
            seed_of=functools.partial(seeds.integer, number, "env", *branch),
            discount=settings.discount,
            reward_scale=settings.reward_scale,
            after_step=idle,
        )
        for branch in branches
    ]
    spec = envs.spec_of(task.env.id, games[0].env)
    agent = build_agent(config, task, spec, stage, [seeds.generator(number, "explore", *branch) for branch in branches])
    transfers = _build_transfers(teachings, newest, spec, stage, settings.grad_clip, len(games))
    return Worker(agent, games, transfers, int(settings.rollout))


def build_agent(
    config: CA3CConfig, task: TaskConfig, spec: EnvSpec, stage: Stage, explore_rngs: list[np.random.Generator]
) -> A3CAgent:
    """The agent of a worker, with a generator for each of its games. Its weights are not set yet."""
    settings = config.agent
    net = build_network(settings, spec, torch.Generator())
    flat = flatten(net)
    push = functools.partial(PushStepper, grad_clip=settings.grad_clip)
    return (FusedA3CAgent if settings.backend == "fused" else A3CAgent)(
        spec=spec,
        net=net,
        flat=flat,
        rl_stepper=push(flat=flat, stage=functools.partial(stage, "rl"), name="rl"),
        distill_stepper=push(flat=flat, stage=functools.partial(stage, "distill"), name="distill"),
        explore_rngs=explore_rngs,
        rl=task.rl,
        discount=settings.discount,
        gae_lambda=settings.gae_lambda,
        value_coef=settings.value_coef,
        entropy_coef=settings.entropy_coef,
    )


def _build_transfers(
    teachings: list[Teaching],
    newest: list[Callable[[], np.ndarray] | None],
    spec: EnvSpec,
    stage: Stage,
    clip: float,
    games: int,
) -> list[AlignmentTransfer]:
    transfers: list[AlignmentTransfer] = []
    trained = 0
    for teaching, fetch in zip(teachings, newest, strict=True):
        config = teaching.config
        net = build_network(teaching.agent, teaching.spec, torch.Generator())
        teacher = Teacher(net=net, spec=teaching.spec, games=games, own_state=config.state == "own", newest=fetch)
        if teaching.weights is not None:
            teacher.load_weights(teaching.weights)
        push = functools.partial(stage, f"align{trained}") if teaching.trains_alignment else None
        trained += teaching.trains_alignment
        align = build_alignment(teaching, spec, torch.Generator(), push, clip)
        transfers.append(
            AlignmentTransfer(
                name=config.task,
                teacher=teacher,
                align=align,
                layer=config.layer,
                t1=config.t1,
                t2=config.t2,
                t_stop=config.t_stop,
            )
        )
    return transfers
