"""Distributions over actions of a student, its teachers, and its teachers seen through F (CDRL Fig. 5).

No log holds them: the networks of a run play and are listened to. `analysis/action_distributions.py` draws them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from mpi_ltcr import assembly_ca3c as assembly
from mpi_ltcr import envs, options
from mpi_ltcr.archive import checkpoint
from mpi_ltcr.archive.rundir import RunDirectory
from mpi_ltcr.config import CA3CConfig, ConfigError, TaskConfig
from mpi_ltcr.programs import align
from mpi_ltcr.programs.listening import Expert, listen, load_expert
from mpi_ltcr.seeds import SeedTree


class Lecture(NamedTuple):
    """One teacher and one student, what they say: float32 logits, (N, A) of whom they are."""

    method: str
    teacher: str
    """The teacher's task."""
    student: str
    """The student's task."""
    teacher_actions: list[str]
    """Names of the teacher's actions."""
    student_actions: list[str]
    """Names of the student's actions."""
    own: np.ndarray
    """The teacher on states of its own task, along its own play (Fig. 5a)."""
    said: np.ndarray
    """The student on states of its task, along its own play (Fig. 5b)."""
    raw: np.ndarray
    """The teacher on those states of the student."""
    aligned: np.ndarray
    """F of `raw` (Fig. 5c); `raw` itself without an alignment network."""
    mapped: bool
    """Whether there is one."""


def lectures(run: Path, task: str | None, states: int, seed: int) -> Iterator[Lecture]:
    """One for each teacher of a run's student, all from its newest whole checkpoints; the run may go on meanwhile.

    Args:
        run: of cA3C, or of an offline alignment.
        task: the student's; None: the only one that has teachers.
        states: N.
        seed: of the play.

    Raises:
        ConfigError: no such run, task or teacher, or a checkpoint that is not whole.
    """
    if not (run / "config.yaml").is_file():
        raise ConfigError(f"{run}: not a run directory (no config.yaml)")
    config = options.load_file(run / "config.yaml")
    torch.set_num_threads(int(config.runtime.threads))
    seeds = SeedTree(seed)
    if isinstance(config, CA3CConfig):
        yield from _of_training(run, config, task, states, seeds)
    elif config.program == "align":
        yield _of_alignment(run, config, states, seeds)
    else:
        raise ConfigError(f"{run}: is a run of {config.program}; teachers and students are of ca3c")


def _of_training(run: Path, config: CA3CConfig, task: str | None, states: int, seeds: SeedTree) -> Iterator[Lecture]:
    student_task = _student(run, config, task)
    student = load_expert(run, student_task.name, f"{run}: ")
    omegas = _alignments(run, config, student_task, student)
    for given, network in zip(student_task.teachers, omegas, strict=True):
        source = run if given.checkpoint is None else Path(given.checkpoint)
        teacher = load_expert(source, given.task, "tasks.teachers.")
        yield _lecture(config.name, teacher, student, network, states, seeds)


def _student(run: Path, config: CA3CConfig, task: str | None) -> TaskConfig:
    """The task that was asked for, or the only one that has teachers."""
    taught = [t for t in config.tasks if t.teachers and task in (None, t.name)]
    if len(taught) != 1:
        names = ", ".join(t.name for t in config.tasks if t.teachers) or "none"
        raise ConfigError(f"--task: {task or 'not given'}; the students of {run} are: {names}")
    return taught[0]


def _alignments(run: Path, config: CA3CConfig, task: TaskConfig, student: Expert) -> Iterator[Any]:
    """F of each teacher, None for the identity: from the student's server, or trained offline."""
    folder, _ = checkpoint.newest_whole(RunDirectory(run).task_checkpoints(task.name))
    store = checkpoint.load_file(folder / assembly.SERVER_FILE)["store"]
    start = store["network"]
    for given in task.teachers:
        teaching = assembly.load_teaching(config, task, given)
        align_ = assembly.build_alignment(teaching, student.spec, torch.Generator(), None, 0)
        if align_.flat is not None and teaching.trains_alignment:
            end = start + len(align_.flat.values)
            align_.flat.values.copy_(torch.from_numpy(store["values"][start:end]))
            start = end
        yield align_.network


def _of_alignment(run: Path, config: Any, states: int, seeds: SeedTree) -> Lecture:
    teacher, expert = align.load_experts(config)
    return _lecture(config.name, teacher, expert, align.load(run, config, teacher, expert), states, seeds)


@torch.no_grad()
def _lecture(method: str, teacher: Expert, student: Expert, network: Any, states: int, seeds: SeedTree) -> Lecture:
    (own,) = listen(teacher, [], states, seeds)
    said, raw = listen(student, [teacher], states, seeds)
    aligned = raw if network is None else network(torch.from_numpy(raw)).numpy()
    names = _names(teacher), _names(student)
    return Lecture(method, teacher.task, student.task, *names, own, said, raw, aligned, network is not None)


def _names(expert: Expert) -> list[str]:
    """What an environment calls its actions, or their numbers."""
    env = envs.make(expert.env.id, expert.env.kwargs)
    meanings = getattr(env.unwrapped, "get_action_meanings", None)
    names = [str(name) for name in meanings()] if meanings else [str(a) for a in range(expert.spec.num_actions)]
    env.close()
    return names
