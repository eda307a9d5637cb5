"""How a gradient becomes a change of weights."""

from __future__ import annotations

import math

import torch

from mpi_ltcr.interfaces import NonFiniteError, State
from mpi_ltcr.nets.flat import FlatParameters


class LocalAdam:
    """Adam on this rank (Kingma & Ba 2015), with its own moments and its own clip.

    Several steppers may drive the same parameters: LTCR's Digest and Revisit have separate moments, as FedMD does.

    Args:
        grad_clip: largest global gradient norm; 0 = never clipped.
        name: of the loss, for error messages.
    """

    def __init__(self, *, flat: FlatParameters, lr: float, eps: float, grad_clip: float, name: str) -> None:
        self.flat = flat
        self.grad_clip = grad_clip
        self.name = name
        self.adam = torch.optim.Adam([flat.values.requires_grad_()], lr=float(lr), eps=float(eps), fused=True)

    def step(self, loss: torch.Tensor) -> float:
        """One descent step on a scalar loss; returns the global gradient norm before clipping.

        Raises:
            NonFiniteError: the loss or a gradient is NaN or infinite; the weights are left as they were.
        """
        self.flat.grads.zero_()
        loss.backward()
        norm = float(torch.linalg.vector_norm(self.flat.grads))
        if not math.isfinite(norm):
            raise NonFiniteError(
                f"{self.name}: the loss is {float(loss.detach())} and its gradient norm {norm}; "
                "weights were not changed. Check the environment's rewards, or lower agent.lr"
            )
        if self.grad_clip and norm > self.grad_clip:
            self.flat.grads.mul_(self.grad_clip / norm)
        self.adam.step()
        return norm

    def state(self) -> State:
        saved = self.adam.state.get(self.flat.values)
        if not saved:
            return {"steps": 0}
        moments = {name: saved[name].detach().cpu().numpy().copy() for name in ("exp_avg", "exp_avg_sq")}
        return {"steps": int(saved["step"]), **moments}

    def load_state(self, state: State) -> None:
        if state["steps"] == 0:
            self.adam.state.clear()
            return
        values = self.flat.values
        self.adam.state[values] = {
            "step": torch.tensor(float(state["steps"]), device=values.device),
            "exp_avg": torch.as_tensor(state["exp_avg"]).to(values.device).clone(),
            "exp_avg_sq": torch.as_tensor(state["exp_avg_sq"]).to(values.device).clone(),
        }
