"""Return distributions as quantiles: quantile regression (QR-DQN, Dabney et al. 2018). Not in the LTCR paper.

Legend
    B    batch size                       θ    quantiles (B, N), in units of the reward; each carries a mass of 1/N
    N    number of quantiles              τ    their levels τ_i = (i - 1/2) / N, i = 1..N
    y, q points (B, M) of the distribution that is learned, and their masses (B, M)
    κ    width of the quadratic middle of Huber's loss, in units of the reward
"""

from __future__ import annotations

import torch
from torch import Tensor

from mpi_ltcr.formulas import categorical


def levels(count: int, *, device: torch.device | None = None) -> Tensor:
    """τ_i = (i - 1/2) / N, the middles of N equal parts of [0, 1]: (N,)."""
    return (torch.arange(count, dtype=torch.float32, device=device) + 0.5) / count


def huber_loss(quantiles: Tensor, points: Tensor, masses: Tensor, kappa: float) -> Tensor:
    """Σ_i Σ_j q_j |τ_i - 1{y_j < θ_i}| L_κ(y_j - θ_i) / κ, per sample: QR-DQN Eq. 10. (B, N), (B, M), (B, M) -> (B,).

    There the points have equal masses 1/M, as a Bellman target of quantiles has. With the masses of atoms it is as
    well the way to learn from a categorical teacher: as κ -> 0 its minimum are the τ-quantiles of the points.
    """
    assert points.shape == masses.shape, (points.shape, masses.shape)
    error = points.unsqueeze(1) - quantiles.unsqueeze(2)  # (B, N, M)
    size = error.abs()
    huber = torch.where(size <= kappa, 0.5 * error.square(), kappa * (size - 0.5 * kappa))
    slope = (levels(quantiles.shape[1], device=quantiles.device).unsqueeze(1) - (error < 0).to(error.dtype)).abs()
    return (masses.unsqueeze(1) * slope * huber).sum((1, 2)) / kappa


def to_atoms(quantiles: Tensor, support: Tensor) -> Tensor:
    """Π_C of N equal masses at θ onto the atoms: what a quantile agent tells teammates. (B, N), (K,) -> (B, K)."""
    return categorical.cramer_project(torch.full_like(quantiles, 1 / quantiles.shape[1]), quantiles, support)
