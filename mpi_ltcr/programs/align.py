"""Offline training of an alignment network (CDRL 4.2): both experts' logits into HDF5, then F between them.

mpi-ltcr train cdrl-offline-align --out runs/cdrl-offline-align
mpirun -n 9 mpi-ltcr train cdrl-offline     (its teacher names runs/cdrl-offline-align)
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from mpi_ltcr import assembly_ca3c as assembly
from mpi_ltcr.archive import checkpoint
from mpi_ltcr.archive.atomic import write_hdf5
from mpi_ltcr.archive.tree import write_tree
from mpi_ltcr.comm import runtime
from mpi_ltcr.comm.collectives import Service
from mpi_ltcr.comm.pulse import pulse
from mpi_ltcr.comm.runtime import JobError
from mpi_ltcr.config import AlignConfig
from mpi_ltcr.formulas import distillation
from mpi_ltcr.nets.alignment import AlignmentNetwork
from mpi_ltcr.nets.flat import flatten
from mpi_ltcr.programs.job import Program, Start, together
from mpi_ltcr.programs.listening import Expert, listen, load_expert
from mpi_ltcr.seeds import TEAM, SeedTree
from mpi_ltcr.steppers import FlatAdam, LocalAdam

HELD_OUT = 0.1
"""Share of the pairs on which early stopping looks."""


class Pairs(NamedTuple):
    """Logits of both experts on the same states: (N, A_teacher) and (N, A_student) float32."""

    teacher: np.ndarray
    student: np.ndarray


def prepare_align(config: AlignConfig, comm: Any, service: Service) -> Program:
    """Load both experts; raises JobError if one is not there or they cannot see the same states."""
    return functools.partial(_run, config, *together(service, lambda: load_experts(config)))


def load_experts(config: AlignConfig) -> tuple[Expert, Expert]:
    """The source task's and the student task's. Raises ConfigError."""
    teacher, expert = (
        load_expert(Path(given.checkpoint), given.task, field)
        for given, field in ((config.teacher, "teacher."), (config.expert, "expert."))
    )
    assembly.check_sight(teacher.spec, expert.spec, f"teacher.task: {config.teacher.task}", config.expert.task)
    return teacher, expert


def _run(config: AlignConfig, teacher: Expert, expert: Expert, start: Start) -> None:
    run, seeds = start.run, SeedTree(config.seed)
    start.greet(f"collects {config.frames} pairs of logits")
    heed = functools.partial(_heed, start)
    pulse.enter("collect")
    pairs = collect(teacher, expert, config.frames, seeds, heed)
    write_hdf5(run.root / "logits.h5", lambda file: write_tree(file, pairs._asdict()))
    network = build(config, teacher, expert, seeds)
    pulse.enter("train")
    best, losses = train(config, network, pairs, seeds.generator(TEAM, "replay"), heed)
    checkpoint.begin(run.checkpoints, config.frames)
    draft = checkpoint.draft_folder(run.checkpoints, config.frames)
    state = {"values": best, "losses": np.array(losses)}
    entry = checkpoint.write_file(draft, assembly.ALIGNMENT_FILE, state)
    checkpoint.commit(run.checkpoints, config.frames, [entry], {"world_size": 1, "ranks": []})
    run.write_status(state="completed", frames=config.frames, exit_code=runtime.COMPLETED)
    run.unlock()
    print(f"mpi-ltcr: held-out loss {losses[0]:.4f} -> {min(losses):.4f} nats after {len(losses) - 1} epochs")


def _heed(start: Start) -> None:
    """Leave if asked to. Nothing is kept of an alignment that is not finished: a resume begins anew."""
    pulse.beat()
    if start.signals.received is not None:
        start.run.write_status(state="preempted", exit_code=runtime.PREEMPTED)
        start.run.unlock()
        raise JobError(f"stopped; begin anew: mpi-ltcr resume {start.run.root}", runtime.PREEMPTED)


def collect(
    teacher: Expert, expert: Expert, count: int, seeds: SeedTree, heed: Callable[[], object] = lambda: None
) -> Pairs:
    """`count` states along the expert's play of the student's task, as both networks see them.

    Args:
        heed: called after each state; it may raise.
    """
    student, looking_on = listen(expert, [teacher], count, seeds, heed)
    return Pairs(looking_on, student)


def build(config: AlignConfig, teacher: Expert, expert: Expert, seeds: SeedTree) -> AlignmentNetwork:
    """F_omega in its first state."""
    return AlignmentNetwork(
        num_teacher_actions=teacher.spec.num_actions,
        num_student_actions=expert.spec.num_actions,
        activation=config.activation,
        generator=torch.Generator().manual_seed(seeds.integer(TEAM, "weights")),
    )


def load(run: Path, config: AlignConfig, teacher: Expert, expert: Expert) -> AlignmentNetwork:
    """F_omega as a run has trained it. Raises ConfigError if it has not, or for others."""
    network = build(config, teacher, expert, SeedTree(config.seed))
    flat = flatten(network)
    flat.values.copy_(torch.from_numpy(assembly.load_alignment(run, len(flat.values))))
    return network


def train(
    config: AlignConfig,
    network: AlignmentNetwork,
    pairs: Pairs,
    rng: np.random.Generator,
    heed: Callable[[], object] = lambda: None,
) -> tuple[np.ndarray, list[float]]:
    """Minimise the alignment loss; the parameters with the best held-out loss, and that loss after each epoch.

    Args:
        heed: called after each update; it may raise.
    """
    order = rng.permutation(len(pairs.teacher))
    held = max(1, int(HELD_OUT * len(order)))
    teacher, student = (torch.from_numpy(logits[order]) for logits in pairs)
    loss_of = functools.partial(
        distillation.alignment_loss, temperature=float(config.temperature), direction=config.direction
    )
    flat = flatten(network)
    adam = LocalAdam(flat=flat, adam=FlatAdam(values=flat.values, lr=config.lr, eps=1e-8), grad_clip=0, name="align")
    best, losses, since = flat.values.numpy().copy(), [], 0

    def held_out_loss() -> float:
        with torch.no_grad():
            return float(loss_of(network(teacher[:held]), student[:held]))

    losses.append(held_out_loss())
    for _ in range(config.epochs):
        for batch in np.array_split(held + rng.permutation(len(order) - held), math.ceil(len(order) / config.batch)):
            adam.step(loss_of(network(teacher[batch]), student[batch]))
            heed()
        losses.append(held_out_loss())
        since = 0 if losses[-1] == min(losses) else since + 1
        if since == 0:
            best = flat.values.numpy().copy()
        if since >= config.patience:
            break
    return best, losses


def describe_align(config: AlignConfig, size: int) -> str:
    """The plan of an offline alignment."""
    return (
        f"{config.name}: one process; {config.frames} pairs of logits of {config.teacher.checkpoint or '?'} and "
        f"{config.expert.checkpoint or '?'}, then at most {config.epochs} epochs\n"
    )
