"""LTCR section 3.1: with linear function approximation, W_j(t) -> W_i under distillation with a small step.

    python analysis/linear_convergence.py -o linear_convergence.png

A teacher Z_i = softmax(W_i φ) and a student Z_j = softmax(W_j φ), W_j(0) = 0, which follows the gradient of LTCR
Eq. 6 on a fixed lesson. Needs no run. Uses the project's own loss and its own network with the `linear` torso (so this
script, alone in analysis/, imports formulas and nets), in float64 and with plain gradient steps instead of Adam.

Legend
    φ    (s, 1) in the block of the action, zeros elsewhere: (d,), d = A (D + 1); the biases belong to W
    W    (K, d): the logits of the atoms are W φ        D, A, K   length of an observation, actions, atoms
    P    projection onto the span of the lesson's φ     N         vectors in the lesson

What to expect (after Theorem 1 of Phuong and Lampert 2019, the paper's [18], which is about two classes):

1. The softmax is blind to a constant added to all atoms, so W is known only up to one: both are compared after the
   mean over atoms is taken off each column. The student stays centred by itself, because its gradient
   mean_n (Z_j - Z_i) φ_nᵀ sums to (1 - 1) φ_nᵀ = 0 over atoms, and W_j(0) = 0 is centred.
2. Each row of that gradient lies in the span of the φ_n, and so does W_j(t). Within the span the loss is convex with
   a single minimum at W_i P, so W_j -> W_i P and the KL on the lesson vanishes: the answers agree.
3. W_i P = W_i if the features span the space: the paper's claim. If they do not (because N < d, or because here two
   components of s never vary) a distance ||W_i (I - P)|| remains for ever, and elsewhere the answers still differ.

"Small" is a step below 2 / L; L = λmax(mean φφᵀ) / 2 bounds the curvature of the loss, since no eigenvalue of
diag(p) - ppᵀ exceeds a half.

The CSV has a row for each case and recorded step: case, vectors, rank, features (d), limit
(||W_i (I - P)||), step, distance, kl (on the lesson), kl_fresh (on vectors that are not in it), both in nats.
"""

from __future__ import annotations

import argparse
import sys
from typing import NamedTuple

import load
import pandas as pd
import style
import torch
from matplotlib.axes import Axes
from torch import Tensor

from mpi_ltcr.formulas import categorical, distillation
from mpi_ltcr.nets.atoms import AtomNetwork
from mpi_ltcr.nets.torsos import Identity, linear

INPUTS, ACTIONS = 4, 2
"""D and A, as in CartPole."""
CASES = {"features span the space": (64, 4), "features do not": (64, 2)}
"""N of the lesson, and how many components of its observations are ever other than 0. d is 10."""
FRESH = 256
RECORDS = 200
FLOOR = 1e-16
"""Below this a KL of float64 masses is rounding, of either sign; the figure's lines end there."""


class Vectors(NamedTuple):
    """Feature vectors (s, a): `obs` (N, D) float64 and `action` (N,) int64."""

    obs: Tensor
    action: Tensor


def main(argv: list[str] | None = None) -> int:
    """Draw what the command line asks for. Returns the exit code."""
    parser = argparse.ArgumentParser(
        description="LTCR section 3.1: distance of two linear students' weights, and their KL, over mimic steps.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    load.add_output(parser, "linear_convergence.png")
    parser.add_argument("--steps", type=load.positive, default=3000, help="gradient steps")
    parser.add_argument("--step-size", type=float, default=1.0, help="of a gradient step on the mean KL")
    parser.add_argument("--atoms", type=load.positive, default=11, help="K")
    parser.add_argument("--seed", type=int, default=1, help="of the teacher's weights and of the features")
    return load.execute(draw, parser.parse_args(argv))


@style.applied()
def draw(asked: argparse.Namespace) -> None:
    """The figure and its CSV."""
    figure, axes = style.new_figure(1, 2, 9.6, 4.4)
    distance, kl = axes[0]
    parts = []
    torch.set_num_threads(1)  # matrices so small are slower on several
    for number, (case, (vectors, varied)) in enumerate(CASES.items()):
        table = experiment(vectors, varied, asked.steps, asked.step_size, asked.atoms, asked.seed)
        part = table.assign(case=case)[["case", *table.columns]]
        draw_case(distance, kl, part, number)
        last = part.iloc[-1]
        print(
            f"{case}: rank {last['rank']} of {last['features']}, after {last['step']} steps distance "
            f"{last['distance']:.3g} (limit {last['limit']:.3g}), KL on the lesson {max(last['kl'], 0):.3g}, "
            f"elsewhere {max(last['kl_fresh'], 0):.3g} nats"
        )
        parts.append(part)
    for ax, label in ((distance, "‖W_j − W_i‖, both centred over atoms (logits)"), (kl, "KL(Z_i ‖ Z_j) (nats)")):
        ax.set_yscale("log")
        ax.set_ylabel(label)
        ax.set_xlabel(f"mimic steps of size {asked.step_size:g}")
        ax.set_xlim(left=0)
    style.legend(figure)
    print("n = 1 seed: of W_i and of the features; nothing else is random")
    style.save(figure, pd.concat(parts), asked.output)


def draw_case(distance: Axes, kl: Axes, part: pd.DataFrame, number: int) -> None:
    """One lesson: weights to the left with the limit that theory gives, answers to the right."""
    name = f"{part['case'].iloc[0]} (rank {part['rank'].iloc[0]} of {part['features'].iloc[0]})"
    solid = style.look(number, 2 * number, len(part))
    distance.plot(part["step"], part["distance"], label=f"{name}: weights, and KL on the lesson", **solid)
    kl.plot(part["step"], part["kl"].where(part["kl"] > FLOOR), **solid)
    dashed = style.look(number, 2 * number + 1, len(part))
    kl.plot(part["step"], part["kl_fresh"].where(part["kl_fresh"] > FLOOR), label=f"{name}: KL elsewhere", **dashed)
    if part["limit"].iloc[0] > 1e-9:
        limit = part["limit"].iloc[0]
        distance.axhline(limit, color=style.GREY, linestyle=":", label="limit that theory gives, ‖W_i (I − P)‖")


# -------------------- the experiment


def experiment(vectors: int, varied: int, steps: int, step_size: float, atoms: int, seed: int) -> pd.DataFrame:
    """Distil a random teacher on a lesson of so many vectors. One row for each recorded step, columns as in the CSV.

    Raises FigureError for a step that is not small.
    """
    generator = torch.Generator().manual_seed(seed)
    teacher = linear_net(atoms, generator)
    fresh = draw_vectors(FRESH, generator)
    lesson = draw_vectors(vectors, generator, varied)
    features = phi(lesson)
    bound = largest_step(features)
    if not 0 < step_size < bound:
        raise load.FigureError(f"--step-size {step_size}: is not small; gradient descent needs one below {bound:.3g}")
    student = linear_net(atoms, generator)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.zero_()
    track = mimic(teacher, student, lesson, fresh, steps, step_size)
    rank = int(torch.linalg.matrix_rank(features))
    limit = float(unseen(weights(teacher), features).norm())
    return pd.DataFrame({"vectors": vectors, "rank": rank, "features": features.shape[1], "limit": limit, **track})


def mimic(
    teacher: AtomNetwork, student: AtomNetwork, lesson: Vectors, fresh: Vectors, steps: int, step_size: float
) -> dict[str, list[float]]:
    """Move the student by plain gradient descent on Eq. 6; what became of it at some 200 evenly spaced steps."""
    target, elsewhere = answer(teacher, lesson).softmax(-1).detach(), answer(teacher, fresh).softmax(-1).detach()
    parameters = list(student.parameters())
    track: dict[str, list[float]] = {"step": [], "distance": [], "kl": [], "kl_fresh": []}
    every = max(1, steps // RECORDS)
    for step in range(steps + 1):
        loss = distillation.peer_loss(target, answer(student, lesson))
        if step % every == 0 or step == steps:
            with torch.no_grad():
                track["kl_fresh"].append(float(distillation.peer_loss(elsewhere, answer(student, fresh))))
                track["distance"].append(float((weights(student) - weights(teacher)).norm()))
            track["step"].append(step)
            track["kl"].append(float(loss.detach()))
        gradients = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter -= step_size * gradient
    return track


def linear_net(atoms: int, generator: torch.Generator) -> AtomNetwork:
    """A network with the `linear` torso, drawn from `generator`, in float64."""
    head = linear(INPUTS, ACTIONS * atoms, generator)
    net = AtomNetwork(torso=Identity(inputs=INPUTS), head=head, actions=ACTIONS, atoms=atoms)
    return net.double()


def draw_vectors(count: int, generator: torch.Generator, varied: int = INPUTS) -> Vectors:
    """Observations with `varied` standard normal components, the others 0; actions in turn."""
    obs = torch.randn(count, INPUTS, generator=generator, dtype=torch.float64)
    obs[:, varied:] = 0
    return Vectors(obs, torch.arange(count) % ACTIONS)


def answer(net: AtomNetwork, vectors: Vectors) -> Tensor:
    """Logits at each (s, a): (N, K)."""
    return categorical.at_action(net(vectors.obs), vectors.action)


# -------------------- the weights as a matrix


def weights(net: AtomNetwork) -> Tensor:
    """W with its mean over atoms taken off: (K, d). Columns are in the order of `phi`."""
    rows = torch.cat([net.head.weight, net.head.bias.unsqueeze(1)], dim=1).detach()
    matrix = rows.view(net.actions, net.atoms, -1).permute(1, 0, 2).reshape(net.atoms, -1)
    return matrix - matrix.mean(0)


def phi(vectors: Vectors) -> Tensor:
    """φ of each (s, a): (N, d)."""
    ones = torch.ones(len(vectors.obs), 1, dtype=vectors.obs.dtype)
    blocks = torch.nn.functional.one_hot(vectors.action, ACTIONS).to(vectors.obs.dtype)
    return torch.einsum("na,ni->nai", blocks, torch.cat([vectors.obs, ones], dim=1)).flatten(1)


def unseen(matrix: Tensor, features: Tensor) -> Tensor:
    """W (I - P): the part of W of which the lesson says nothing. (K, d) and (N, d) -> (K, d)."""
    return matrix - matrix @ torch.linalg.pinv(features) @ features


def largest_step(features: Tensor) -> float:
    """2 / L: below it, gradient descent on the mean KL over these features (N, d) never goes up."""
    curvature = torch.linalg.eigvalsh(features.T @ features / len(features))[-1] / 2
    return float(2 / curvature)


if __name__ == "__main__":
    sys.exit(main())
