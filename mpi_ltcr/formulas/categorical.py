"""Categorical DQN: return distributions on a fixed support (LTCR section 2, after Bellemare et al. 2017).

Legend
    B    batch size                                  A    number of actions
    K    number of atoms of the support              K'   number of atoms of a distribution to be projected
    z    support (K,): evenly spaced returns z_k, in units of the (scaled) reward
    Δz   distance of neighbouring atoms, (vmax - vmin) / (K - 1)
    p    probabilities of atoms, along the last axis; p = softmax(logits)
    Z    the distribution (z, p)                     Π_C  Cramér projection onto z
    r, γ reward and discount; γ is gamma^n for n steps and 0 only at a termination

Supports must be evenly spaced and increasing, as `support` makes them; nothing here checks that again.
Wrong shapes raise AssertionError where broadcasting would otherwise hide them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def support(
    vmin: float,
    vmax: float,
    atoms: int,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:
    """z_k = vmin + (k - 1)(vmax - vmin)/(K - 1), k = 1..K: the atoms' returns (K,). LTCR section 2.

    Computed in float64 and rounded once, so that inexact Δz do not accumulate. `vmin` may be 0: it is never
    mistaken for "not given".

    Raises ValueError for fewer than two atoms or an empty interval.
    """
    if atoms < 2:
        raise ValueError(f"a support needs at least 2 atoms, got {atoms}")
    if not vmin < vmax:
        raise ValueError(f"a support needs vmin < vmax, got [{vmin}, {vmax}]")
    return torch.linspace(vmin, vmax, atoms, dtype=torch.float64).to(dtype=dtype, device=device)


def expectation(probs: Tensor, support: Tensor) -> Tensor:
    """Q(s, a) = Σ_k z_k p_k(s, a), LTCR section 2. (..., K) and (K,) -> (...), in units of the reward."""
    return probs @ support


def greedy(logits: Tensor, support: Tensor) -> Tensor:
    """a* = argmax_a zᵀp(s, a), LTCR section 2. (B, A, K) -> (B,) int64.

    The paper says nothing of ties: the first of equal actions is taken. They are common only where the support
    is too narrow and all mass sits on its last atom.
    """
    return expectation(logits.softmax(-1), support).argmax(-1)


def bellman_positions(reward: Tensor, discount: Tensor, support: Tensor) -> Tensor:
    """r + γz: where the atoms of Z(s', a*) land, LTCR section 2. (B,), (B,) and (K,) -> (B, K).

    Not clipped: see `cramer_project` and `clipped_fraction`. At a termination (γ = 0) all atoms land on r.
    """
    assert reward.ndim == 1, reward.shape
    assert reward.shape == discount.shape, (reward.shape, discount.shape)
    return reward.unsqueeze(1) + discount.unsqueeze(1) * support


def cramer_project(probs: Tensor, positions: Tensor, support: Tensor) -> Tensor:
    """Π_C of Eq. 3: (B, K') masses at (B, K') positions -> (B, K) masses on the support.

        (Π_C Z)_k = Σ_j p_j [1 - |[y_j] - z_k| / Δz], brackets clipping to [vmin, vmax] and [0, 1]

    Each mass is shared by its two neighbours in proportion to closeness; what lies outside goes to the end atom.
    The paper only names Π_C; this clip form needs no special case for positions that fall exactly on an atom,
    where the usual floor/ceil form loses the mass. Counting in atoms (b) rather than in returns keeps the mass
    at one also where Δz is not representable. NaN in, NaN out. Memory: (B, K', K).
    """
    assert probs.ndim == 2, probs.shape
    assert probs.shape == positions.shape, (probs.shape, positions.shape)
    last = support.shape[0] - 1
    per_return = last / (support[-1] - support[0])
    b = ((positions - support[0]) * per_return).clamp(0, last)
    atom = torch.arange(last + 1, dtype=support.dtype, device=support.device)
    closeness = (1 - (b.unsqueeze(2) - atom).abs()).clamp(min=0)
    return torch.bmm(probs.unsqueeze(1), closeness).squeeze(1)


@torch.no_grad()
def target_distribution(
    reward: Tensor,
    discount: Tensor,
    next_logits: Tensor,
    support: Tensor,
    next_action: Tensor | None = None,
) -> Tensor:
    """Π_C(r + γz, p_θ'(s', a*)), the target of Eq. 3. (B,), (B,), (B, A, K), (K,) -> (B, K), without gradient.

    `next_logits` are the target network's. As printed, a* is greedy for that same network; `next_action (B,)`
    int64 replaces it (Double Q-learning: the online network's choice).
    """
    probs = next_logits.softmax(-1)
    if next_action is None:
        next_action = expectation(probs, support).argmax(-1)
    return cramer_project(at_action(probs, next_action), bellman_positions(reward, discount, support), support)


def dueling(value: Tensor, advantage: Tensor) -> Tensor:
    """v_k(s) + a_k(s, a) - mean over a' of a_k(s, a'), the logits of each atom apart. (B, K), (B, A, K) -> (B, A, K).

    Wang et al. 2016, Eq. 9, as Rainbow has it for distributions: before the softmax over atoms, not on expectations.
    """
    assert value.shape == (advantage.shape[0], advantage.shape[2]), (value.shape, advantage.shape)
    return value.unsqueeze(1) + advantage - advantage.mean(1, keepdim=True)


def at_action(logits: Tensor, action: Tensor) -> Tensor:
    """The atoms of Z(s, a) at the stored action a. (B, A, K) and (B,) int64 -> (B, K).

    Gradient flows to these atoms alone. Serves probabilities as well. Raises RuntimeError for an action outside
    0..A-1 (on a GPU: a device-side assertion); unlike an index, `gather` does not read -1 as the last action.
    """
    assert action.shape == logits.shape[:1], (action.shape, logits.shape)
    index = action.view(-1, 1, 1).expand(-1, 1, logits.shape[2])
    return logits.gather(1, index).squeeze(1)


def cross_entropy(target: Tensor, logits: Tensor) -> Tensor:
    """-Σ_k target_k log softmax(logits)_k, per sample. (B, K) and (B, K) -> (B,), in nats.

    Eq. 3 less the target's own entropy: the same gradient for less work. Through log_softmax, because the
    logarithm of a clamped probability has no gradient on saturated atoms.
    """
    assert target.shape == logits.shape, (target.shape, logits.shape)
    return -(target * logits.log_softmax(-1)).sum(-1)


def kl_divergence(target: Tensor, logits: Tensor) -> Tensor:
    """D_KL(target || softmax(logits)), per sample: Eq. 3. (B, K) probabilities and (B, K) logits -> (B,), in nats.

    Atoms without target mass contribute exactly 0. Unlike the cross-entropy it is 0 for a perfect fit, which makes
    it the better priority for replay.
    """
    assert target.shape == logits.shape, (target.shape, logits.shape)
    return F.kl_div(logits.log_softmax(-1), target, reduction="none").sum(-1)


def clipped_fraction(positions: Tensor, support: Tensor) -> Tensor:
    """Share of positions (any shape) outside [vmin, vmax]: () in 0..1. Not in the paper.

    To be logged: a support that clips much silently changes the problem. Atoms count alike, whatever their mass.
    """
    outside = (positions < support[0]) | (positions > support[-1])
    return outside.to(support.dtype).mean()
