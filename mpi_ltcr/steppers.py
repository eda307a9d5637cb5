"""How a gradient becomes a change of weights."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

from mpi_ltcr.interfaces import NonFiniteError, State
from mpi_ltcr.nets.flat import FlatParameters


class FlatAdam:
    """Adam (Kingma & Ba 2015) over one flat vector, its moments as plain arrays in the state.

    Through torch's kernel and not its class, whose construction imports the compiler: 1.7 s for each rank. The function
    between the two, `torch.optim.adam.adam`, sorts lists of tensors first, which takes half as long again.

    Args:
        values: float32 (P,), changed in place.
    """

    def __init__(self, *, values: torch.Tensor, lr: float, eps: float) -> None:
        self.values, self.lr, self.eps = values.detach(), float(lr), float(eps)
        self.steps = torch.zeros((), device=values.device)
        self.exp_avg, self.exp_avg_sq = torch.zeros_like(self.values), torch.zeros_like(self.values)

    def apply(self, gradient: torch.Tensor) -> None:
        """One step along a gradient (P,)."""
        self.steps += 1
        torch._fused_adam_(
            [self.values],
            [gradient],
            [self.exp_avg],
            [self.exp_avg_sq],
            [],
            [self.steps],
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=self.lr,
            weight_decay=0.0,
            eps=self.eps,
            maximize=False,
        )

    def state(self) -> State:
        moments = {"exp_avg": self.exp_avg, "exp_avg_sq": self.exp_avg_sq}
        return {"steps": int(self.steps), **{name: moment.cpu().numpy().copy() for name, moment in moments.items()}}

    def load_state(self, state: State) -> None:
        self.steps.fill_(state["steps"])
        self.exp_avg.copy_(torch.as_tensor(state["exp_avg"]))
        self.exp_avg_sq.copy_(torch.as_tensor(state["exp_avg_sq"]))


def clipped_gradient(flat: FlatParameters, loss: torch.Tensor, grad_clip: float, name: str) -> float:
    """Fill `flat.grads` with the gradient of a scalar loss, its global norm at most `grad_clip` (0: any).

    Returns:
        The norm before clipping.

    Raises:
        NonFiniteError: the loss or a gradient is NaN or infinite; nothing has been changed or sent.
    """
    flat.grads.zero_()
    loss.backward()
    return clipped(flat, loss.detach(), grad_clip, name)


def clipped(flat: FlatParameters, loss: torch.Tensor | float, grad_clip: float, name: str) -> float:
    """As `clipped_gradient`, of a gradient that stands in `flat.grads` already."""
    return accepted(flat, float(torch.linalg.vector_norm(flat.grads)), loss, grad_clip, name)


def accepted(flat: FlatParameters, norm: float, loss: torch.Tensor | float, grad_clip: float, name: str) -> float:
    """As `clipped`, of a gradient whose norm is known."""
    if not math.isfinite(norm):
        raise NonFiniteError(
            f"{name}: the loss is {float(loss)} and its gradient norm {norm}; "
            "weights were not changed. Check the environment's rewards, or lower agent.lr"
        )
    if grad_clip and norm > grad_clip:
        flat.grads.mul_(grad_clip / norm)
    return norm


class LocalAdam:
    """A local optimiser with its own clip.

    Several steppers may drive the same parameters, LTCR's Revisit and Digest do: each with moments of its own, or both
    with the same ones.

    Args:
        adam: over `flat`'s values.
        grad_clip: largest global gradient norm; 0 = never clipped.
        name: of the loss, for error messages.
    """

    def __init__(self, *, flat: FlatParameters, adam: FlatAdam, grad_clip: float, name: str) -> None:
        self.flat, self.adam, self.grad_clip, self.name = flat, adam, float(grad_clip), name

    def step(self, loss: torch.Tensor) -> float:
        """One descent step on a scalar loss; returns the global gradient norm before clipping.

        Raises:
            NonFiniteError: the loss or a gradient is NaN or infinite; the weights are left as they were.
        """
        norm = clipped_gradient(self.flat, loss, self.grad_clip, self.name)
        self.adam.apply(self.flat.grads)
        return norm

    def follow(self, loss: float) -> float:
        """As `step`, along the gradient that stands in `flat.grads` already."""
        norm = clipped(self.flat, loss, self.grad_clip, self.name)
        self.adam.apply(self.flat.grads)
        return norm

    def state(self) -> State:
        return self.adam.state()

    def load_state(self, state: State) -> None:
        self.adam.load_state(state)


class PushStepper:
    """A push to a parameter server: the gradient is handed to `stage`, and the weights stay as they are.

    Args:
        stage: takes the flat gradient (P,), e.g. into the next message.
        grad_clip, name: as in LocalAdam.
    """

    def __init__(
        self, *, flat: FlatParameters, stage: Callable[[np.ndarray], None], grad_clip: float, name: str
    ) -> None:
        self.flat, self.stage, self.grad_clip, self.name = flat, stage, float(grad_clip), name

    def step(self, loss: torch.Tensor) -> float:
        """Stage the gradient of a scalar loss; returns its global norm before clipping. Raises NonFiniteError."""
        norm = clipped_gradient(self.flat, loss, self.grad_clip, self.name)
        self.stage(self.flat.grads.numpy())
        return norm

    def follow(self, loss: float) -> float:
        """As `step`, of the gradient that stands in `flat.grads` already."""
        norm = clipped(self.flat, loss, self.grad_clip, self.name)
        self.stage(self.flat.grads.numpy())
        return norm

    def state(self) -> State:
        return {}

    def load_state(self, state: State) -> None:
        pass


class ParameterStore:
    """What a task's server owns: the task's parameters, its alignment networks', and an Adam for each kind of gradient.

    "rl" and "distill" both move the task's network (CDRL's code has an optimiser for each), "align0", "align1", ... the
    alignment network of each teacher.

    Args:
        values: float32 (P + Q0 + Q1 + ...,): the task's network, then the alignment networks of its teachers.
        sizes: P, Q0, Q1, ...
    """

    def __init__(self, *, values: np.ndarray, sizes: list[int], lr: float, eps: float) -> None:
        self.values, self.network = values, sizes[0]
        network, *alignments = torch.from_numpy(values).split(sizes)
        parts = {"rl": network, "distill": network, **{f"align{i}": part for i, part in enumerate(alignments)}}
        self.sizes = {kind: len(part) for kind, part in parts.items()}
        self.adams = {kind: FlatAdam(values=part, lr=lr, eps=eps) for kind, part in parts.items()}

    def apply(self, kind: str, gradient: np.ndarray) -> None:
        """One Adam step of its kind. Raises NonFiniteError for a gradient that is not finite, before it is applied."""
        if not np.isfinite(gradient.sum()):
            raise NonFiniteError(f"{kind}: a gradient that is not finite reached the server; it was not applied")
        self.adams[kind].apply(torch.from_numpy(gradient))

    def state(self) -> State:
        adams = {kind: optimiser.state() for kind, optimiser in self.adams.items()}
        return {"values": self.values.copy(), "network": self.network, "adams": adams}

    def load_state(self, state: State) -> None:
        """Take over a saved state; raises ValueError if it is of other networks."""
        if state["values"].shape != self.values.shape or set(state["adams"]) != set(self.adams):
            raise ValueError(f"{state['values'].size} parameters were saved, this task has {self.values.size}")
        self.values[:] = state["values"]
        for kind, optimiser in self.adams.items():
            optimiser.load_state(state["adams"][kind])
