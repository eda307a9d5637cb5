"""Advantage actor-critic with generalised advantage estimation: CDRL section 3.2 and Algorithm 1, lines 16 to 23.

Legend
    T    steps of one rollout, which ends at a termination, a truncation or after t_max steps
    A    number of actions
    r_i  reward, v_i = V(s_i) value of the state acted in, R_i discounted return, A_i advantage
    γ, λ discount and GAE decay per step             c_v, β  weights of value loss and entropy

Rewards, values, returns and advantages are in units of the (scaled) reward. Wrong shapes raise AssertionError.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


@torch.no_grad()
def gae(rewards: Tensor, values: Tensor, bootstrap: Tensor, discount: float, lam: float) -> tuple[Tensor, Tensor]:
    """Advantages and returns of one rollout, (T,) each, without gradient. Algorithm 1, lines 16 to 20.

        δ_i = r_i + γ v_{i+1} - v_i,   A_i = δ_i + γλ A_{i+1},   R_i = r_i + γ R_{i+1}

    `rewards` and `values` are (T,), or (T, B) for B rollouts side by side; `bootstrap` is () or (B,): v and R after the
    last step, 0 at a termination, V(s_t) otherwise (a truncation bootstraps).

    Deviation: the print forgets A = 0 before the loop. Reading: line 9 stands after the step, yet v_i is V of the state
    acted in. The returns are plain discounted sums as in line 20, not the λ-returns A + v; with λ = 1 both agree.
    """
    assert rewards.shape == values.shape, (rewards.shape, values.shape)
    assert bootstrap.shape == rewards.shape[1:], (bootstrap.shape, rewards.shape)
    advantages, returns = torch.empty_like(values), torch.empty_like(values)
    next_value, ret = bootstrap, bootstrap
    advantage = torch.zeros_like(bootstrap)
    for i in reversed(range(len(rewards))):
        delta = rewards[i] + discount * next_value - values[i]
        advantage = delta + discount * lam * advantage
        ret = rewards[i] + discount * ret
        advantages[i], returns[i] = advantage, ret
        next_value = values[i]
    return advantages, returns


def gae_each(
    rewards: Tensor, values: Tensor, bootstraps: Tensor, lengths: Sequence[int], discount: float, lam: float
) -> tuple[Tensor, Tensor]:
    """`gae` of several rollouts of so many steps that follow each other: `rewards`, `values` (N,), `bootstraps` one for
    each rollout -> advantages and returns (N,)."""
    rollouts = zip(rewards.split(list(lengths)), values.split(list(lengths)), bootstraps, strict=True)
    found = [gae(r, v, after, discount, lam) for r, v, after in rollouts]
    advantages, returns = (torch.cat(part) for part in zip(*found, strict=True))
    return advantages, returns


def loss(
    logits: Tensor,
    actions: Tensor,
    values: Tensor,
    advantages: Tensor,
    returns: Tensor,
    value_coef: float,
    entropy_coef: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """One scalar to MINIMISE, and its parts: Algorithm 1, lines 21 and 22, with the entropy bonus of section 3.2.

        Σ_i [ -log π(a_i|s_i) A_i + c_v (R_i - v_i)² - β H(π(.|s_i)) ]

    logits (T, A), actions (T,) int64, values, advantages, returns (T,) -> () and detached `policy_loss`,
    `value_loss`, `entropy` (), summed over i and before c_v and β. Advantages and returns are constants.

    Deviations: the print's line 21 ascends and line 22 descends, though line 24 applies both alike; the entropy is
    absent from Algorithm 1. The authors' code has c_v = 0.25 (half of half the square) and β = 0.01.
    """
    assert logits.ndim == 2, logits.shape
    assert actions.shape == values.shape == advantages.shape == returns.shape == logits.shape[:1]
    log_pi = logits.log_softmax(-1).gather(1, actions.unsqueeze(1)).squeeze(1)
    policy_loss = -(log_pi * advantages.detach()).sum()
    value_loss = (returns.detach() - values).square().sum()
    bonus = entropy(logits).sum()
    total = policy_loss + value_coef * value_loss - entropy_coef * bonus
    return total, {
        "policy_loss": policy_loss.detach(),
        "value_loss": value_loss.detach(),
        "entropy": bonus.detach(),
    }


def entropy(logits: Tensor) -> Tensor:
    """H(π) = -Σ_a π(a) log π(a) of π = softmax(logits). (..., A) -> (...), in nats: between 0 and log A."""
    log_pi = logits.log_softmax(-1)
    return -(log_pi.exp() * log_pi).sum(-1)
