"""Algorithm 1, lines 16 to 23, against a double sum, a sum worked by hand and finite differences."""

from __future__ import annotations

from math import exp, log

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck

from mpi_ltcr.formulas import actor_critic

torch.set_num_threads(1)

quick = settings(max_examples=40, deadline=None, derandomize=True)
seeds = st.integers(0, 2**31 - 1)
fractions = st.floats(0, 1)


def random_tensor(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tensor(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def scalar(number: float) -> Tensor:
    return torch.tensor(number, dtype=torch.float64)


def double_sum(rewards: list[float], values: list[float], last: float, discount: float, lam: float) -> list[float]:
    """A_i = Σ_l (γλ)^l δ_{i+l}: Eq. 16 of Schulman et al. (2016), cut at the end of the rollout."""
    v = [*values, last]
    length = len(rewards)
    out = []
    for i in range(length):
        total = 0.0
        for j in range(i, length):
            total += (discount * lam) ** (j - i) * (rewards[j] + discount * v[j + 1] - v[j])
        out.append(total)
    return out


def discounted_return(rewards: list[float], i: int, last: float, discount: float) -> float:
    """Σ_k γ^k r_{i+k} + γ^{T-i} V(s_T): CDRL section 3.2."""
    tail = rewards[i:]
    return sum(discount**k * r for k, r in enumerate(tail)) + discount ** len(tail) * last


@quick
@given(seeds, st.integers(1, 25), fractions, fractions)
def test_advantages_and_returns_are_the_papers_sums(seed: int, length: int, discount: float, lam: float) -> None:
    rewards, values, last = (random_tensor(n, seed=seed + i) for i, n in enumerate((length, length, 1)))
    advantages, returns = actor_critic.gae(rewards, values, last[0], discount, lam)
    expected = double_sum(rewards.tolist(), values.tolist(), last.item(), discount, lam)
    np.testing.assert_allclose(advantages.numpy(), expected, atol=1e-9)
    sums = [discounted_return(rewards.tolist(), i, last.item(), discount) for i in range(length)]
    np.testing.assert_allclose(returns.numpy(), sums, atol=1e-9)


def test_three_steps_worked_by_hand() -> None:
    """γ = λ = 1/2, bootstrap 8: δ = (1 + 2 - 2, 0 + 1 - 4, 2 + 4 - 2) = (1, -3, 4)."""
    advantages, returns = actor_critic.gae(tensor(1, 0, 2), tensor(2, 4, 2), scalar(8.0), 0.5, 0.5)
    assert advantages.tolist() == [1 + (-3 + 4 / 4) / 4, -3 + 4 / 4, 4]  # 0.5, -2, 4
    assert returns.tolist() == [1 + (0 + 6 / 2) / 2, 0 + 6 / 2, 2 + 8 / 2]  # 2.5, 3, 6


def test_a_termination_counts_no_value_after_the_end() -> None:
    rewards, values = tensor(0, 0, 5), tensor(1, 1, 1)
    advantages, returns = actor_critic.gae(rewards, values, scalar(0.0), 0.9, 1.0)
    np.testing.assert_allclose(returns.numpy(), [4.05, 4.5, 5.0], atol=1e-12)
    np.testing.assert_allclose(advantages.numpy(), [3.05, 3.5, 4.0], atol=1e-12)


def test_an_unfinished_episode_bootstraps_the_value_where_it_stopped() -> None:
    rewards, values = tensor(0, 0, 5), tensor(1, 1, 1)
    advantages, returns = actor_critic.gae(rewards, values, scalar(10.0), 0.9, 1.0)
    np.testing.assert_allclose(returns.numpy(), [4.05 + 7.29, 4.5 + 8.1, 5.0 + 9.0], atol=1e-12)
    np.testing.assert_allclose(advantages.numpy(), [10.34, 11.6, 13.0], atol=1e-12)


@quick
@given(seeds, fractions)
def test_with_lambda_one_the_advantage_is_the_return_less_the_value(seed: int, discount: float) -> None:
    rewards, values = random_tensor(9, seed=seed), random_tensor(9, seed=seed + 1)
    advantages, _ = actor_critic.gae(rewards, values, scalar(0.7), discount, 1.0)
    sums = [discounted_return(rewards.tolist(), i, 0.7, discount) - values[i].item() for i in range(9)]
    np.testing.assert_allclose(advantages.numpy(), sums, atol=1e-9)


def test_with_lambda_zero_the_advantage_is_the_one_step_error_and_the_return_is_unchanged() -> None:
    rewards, values, last = tensor(1, 2, 3), tensor(4, 5, 6), scalar(7.0)
    advantages, returns = actor_critic.gae(rewards, values, last, 0.5, 0.0)
    assert advantages.tolist() == [1 + 2.5 - 4, 2 + 3.0 - 5, 3 + 3.5 - 6]
    assert returns.tolist() == actor_critic.gae(rewards, values, last, 0.5, 1.0)[1].tolist()
    assert returns.tolist() == [1 + (2 + 6.5 / 2) / 2, 2 + 6.5 / 2, 6.5]


def test_rollouts_side_by_side_do_not_mix() -> None:
    rewards, values, last = random_tensor(6, 3, seed=1), random_tensor(6, 3, seed=2), random_tensor(3, seed=3)
    advantages, returns = actor_critic.gae(rewards, values, last, 0.9, 0.8)
    for b in range(3):
        r, v, end = rewards[:, b].tolist(), values[:, b].tolist(), last[b].item()
        np.testing.assert_allclose(advantages[:, b].numpy(), double_sum(r, v, end, 0.9, 0.8), atol=1e-12)
        np.testing.assert_allclose(
            returns[:, b].numpy(), [discounted_return(r, i, end, 0.9) for i in range(6)], atol=1e-12
        )


def test_advantages_and_returns_carry_no_gradient_and_leave_their_inputs_alone() -> None:
    rewards, values = tensor(1, 2), tensor(3, 4).requires_grad_()
    last = scalar(5.0).requires_grad_()
    advantages, returns = actor_critic.gae(rewards, values, last, 0.9, 0.9)
    assert not advantages.requires_grad
    assert not returns.requires_grad
    assert (rewards.tolist(), values.tolist(), last.item()) == ([1, 2], [3, 4], 5)


def test_shapes_that_would_broadcast_are_refused() -> None:
    with pytest.raises(AssertionError):
        actor_critic.gae(tensor(1, 2), tensor(1, 2), tensor(0), 0.9, 0.9)
    with pytest.raises(AssertionError):
        actor_critic.gae(tensor(1, 2), tensor(1), torch.tensor(0.0), 0.9, 0.9)
    one, column = torch.zeros(2), torch.zeros(2, 1)
    with pytest.raises(AssertionError):
        actor_critic.loss(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64), column, one, one, 0.25, 0.01)


# -------------------- loss


def rollout() -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    logits, values = random_tensor(4, 3, seed=4), random_tensor(4, seed=5)
    return logits, torch.tensor([2, 0, 1, 1]), values, random_tensor(4, seed=6), random_tensor(4, seed=7)


def test_the_loss_is_the_sum_over_the_rollout_of_three_terms() -> None:
    logits, actions, values, advantages, returns = rollout()
    policy = value = entropy = 0.0
    for t in range(4):
        weights = [exp(x) for x in logits[t].tolist()]
        pi = [w / sum(weights) for w in weights]
        policy += -log(pi[int(actions[t])]) * advantages[t].item()
        value += (returns[t].item() - values[t].item()) ** 2
        entropy += -sum(p * log(p) for p in pi)
    total, parts = actor_critic.loss(logits, actions, values, advantages, returns, 0.25, 0.01)
    assert total.item() == pytest.approx(policy + 0.25 * value - 0.01 * entropy, abs=1e-12)
    expected = {"policy_loss": policy, "value_loss": value, "entropy": entropy}
    assert {name: part.item() for name, part in parts.items()} == pytest.approx(expected, abs=1e-12)


def test_the_gradient_of_the_loss_passes_the_finite_difference_check() -> None:
    logits, actions, values, advantages, returns = rollout()

    def total(x: Tensor, v: Tensor) -> Tensor:
        return actor_critic.loss(x, actions, v, advantages, returns, 0.25, 0.01)[0]

    assert gradcheck(total, (logits.requires_grad_(), values.requires_grad_()))


def test_advantages_and_returns_are_constants_of_the_loss_and_its_parts_are_detached() -> None:
    logits, actions, values, advantages, returns = (x.requires_grad_(x.is_floating_point()) for x in rollout())
    total, parts = actor_critic.loss(logits, actions, values, advantages, returns, 0.25, 0.01)
    total.backward()
    assert advantages.grad is None
    assert returns.grad is None
    assert logits.grad is not None
    assert values.grad is not None
    assert not any(part.requires_grad for part in parts.values())


def test_descending_makes_good_actions_likelier_and_moves_values_towards_returns() -> None:
    logits = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    values = tensor(0, 0).requires_grad_()
    actions = torch.tensor([1, 1])
    total, _ = actor_critic.loss(logits, actions, values, tensor(1, -1), tensor(2, -2), 0.25, 0.0)
    total.backward()
    assert logits.grad is not None
    assert values.grad is not None
    np.testing.assert_allclose(logits.grad.numpy(), [[1 / 3, -2 / 3, 1 / 3], [-1 / 3, 2 / 3, -1 / 3]], atol=1e-12)
    assert values.grad.tolist() == [-1.0, 1.0]  # 0.25 * 2 * (v - R)


def test_the_entropy_bonus_flattens_the_policy() -> None:
    logits = tensor(0, 2).reshape(1, 2).requires_grad_()
    nothing = tensor(0)
    total, _ = actor_critic.loss(logits, torch.tensor([0]), nothing, nothing, nothing, 0.25, 1.0)
    total.backward()
    assert logits.grad is not None
    assert logits.grad[0, 0].item() < 0 < logits.grad[0, 1].item()  # descent raises the unlikely, lowers the likely


def test_the_entropy_is_largest_for_indifference_and_zero_for_certainty() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [500.0, 0.0, 0.0, 0.0], [log(3.0), 0.0, -500.0, -500.0]])
    expected = [log(4), 0.0, -(0.75 * log(0.75) + 0.25 * log(0.25))]
    assert actor_critic.entropy(logits).tolist() == pytest.approx(expected, abs=1e-6)
