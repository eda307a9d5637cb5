"""Categorical DQN against exact fractions, the floor/ceil form, scipy's least squares and finite differences."""

from __future__ import annotations

from fractions import Fraction
from math import ceil, exp, floor, log

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls
from torch import Tensor
from torch.autograd import gradcheck

from mpi_ltcr.formulas import categorical

torch.set_num_threads(1)

SUPPORTS = [
    (-10.0, 10.0, 51),
    (-100.0, 100.0, 51),
    (0.0, 100.0, 51),
    (-10.0, 10.0, 52),
    (-1.0, 2.0, 2),
    (-25.0, 25.0, 51),
]
quick = settings(max_examples=40, deadline=None, derandomize=True)
supports = st.tuples(st.floats(-50, 50), st.floats(0.1, 100), st.integers(2, 24)).map(
    lambda s: (s[0], s[0] + s[1], s[2])
)
seeds = st.integers(0, 2**31 - 1)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_masses(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return (3 * torch.randn(*shape, generator=generator(seed), dtype=dtype)).softmax(-1)


def exact_projection(probs: Tensor, positions: Tensor, vmin: float, vmax: float, atoms: int) -> np.ndarray:
    """Eq. 7 of Bellemare et al. (2017), one atom at a time and in exact fractions: no rounding anywhere."""
    low, high = Fraction(vmin), Fraction(vmax)
    delta = (high - low) / (atoms - 1)
    out = np.zeros((len(probs), atoms))
    for n in range(len(probs)):
        for k in range(atoms):
            mass = Fraction(0)
            for p, y in zip(probs[n].tolist(), positions[n].tolist(), strict=True):
                clipped = max(low, min(high, Fraction(y)))
                mass += Fraction(p) * max(Fraction(0), 1 - abs(clipped - (low + k * delta)) / delta)
            out[n, k] = float(mass)
    return out


def index_projection(probs: Tensor, positions: Tensor, vmin: float, vmax: float, atoms: int) -> np.ndarray:
    """Algorithm 1 of Bellemare et al. (2017), floor and ceil, with the exact-integer case put right."""
    delta = (vmax - vmin) / (atoms - 1)
    out = np.zeros((len(probs), atoms))
    for n in range(len(probs)):
        for p, y in zip(probs[n].tolist(), positions[n].tolist(), strict=True):
            b = min((min(max(y, vmin), vmax) - vmin) / delta, atoms - 1)
            lower, upper = floor(b), ceil(b)
            if lower == upper:
                out[n, lower] += p
            else:
                out[n, lower] += p * (upper - b)
                out[n, upper] += p * (b - lower)
    return out


def cramer_argmin(probs: np.ndarray, positions: np.ndarray, z: np.ndarray) -> np.ndarray:
    """The distribution on z whose CDF is nearest in L2 to that of masses at positions: weighted least squares.

    Both CDFs are constant between neighbouring breakpoints, so the integral is a finite sum. The last mass follows from
    the others, whose sum is left free; the solution is that of the full problem if it turns out to be at most one.
    """
    inside = positions[(positions > z[0]) & (positions < z[-1])]
    edges = np.unique(np.concatenate([z, inside]))
    middle, root = (edges[1:] + edges[:-1]) / 2, np.sqrt(np.diff(edges))
    rows = root[:, None] * (z[None, :-1] < middle[:, None])
    wanted = root * (probs[None, :] * (positions[None, :] < middle[:, None])).sum(1)
    masses, _ = nnls(rows, wanted)
    assert masses.sum() <= 1 + 1e-9
    return np.append(masses, 1 - masses.sum())


# -------------------- support, expectation


@pytest.mark.parametrize(("vmin", "vmax", "atoms"), SUPPORTS)
def test_the_support_is_the_papers_z_k_rounded_once(vmin: float, vmax: float, atoms: int) -> None:
    steps = [Fraction(vmin) + (k - 1) * (Fraction(vmax) - Fraction(vmin)) / (atoms - 1) for k in range(1, atoms + 1)]
    expected = np.array([float(s) for s in steps])
    z = categorical.support(vmin, vmax, atoms)
    assert z.dtype == torch.float32
    np.testing.assert_allclose(z.numpy(), expected.astype(np.float32), rtol=0, atol=1e-6 * max(abs(vmin), abs(vmax)))
    assert (z[0].item(), z[-1].item()) == (vmin, vmax)
    double = categorical.support(vmin, vmax, atoms, dtype=torch.float64)
    np.testing.assert_allclose(double.numpy(), expected, rtol=0, atol=1e-12)


def test_a_support_may_start_at_zero() -> None:
    assert categorical.support(0.0, 100.0, 51)[0].item() == 0.0
    assert categorical.support(0.0, 100.0, 51)[1].item() == 2.0


@pytest.mark.parametrize("bad", [(0.0, 1.0, 1), (1.0, 1.0, 5), (2.0, 1.0, 5), (float("nan"), 1.0, 5)])
def test_an_empty_support_is_refused(bad: tuple[float, float, int]) -> None:
    with pytest.raises(ValueError, match="support"):
        categorical.support(*bad)


def test_the_expectation_is_the_sum_of_returns_weighted_by_their_masses() -> None:
    probs, z = random_masses(3, 4, 7), categorical.support(-2, 5, 7, dtype=torch.float64)
    q = categorical.expectation(probs, z)
    assert q.shape == (3, 4)
    for n in range(3):
        for a in range(4):
            by_hand = sum(float(z[k]) * float(probs[n, a, k]) for k in range(7))
            assert q[n, a].item() == pytest.approx(by_hand, abs=1e-12)


def test_the_greedy_action_has_the_highest_mean_and_not_the_highest_atom() -> None:
    z = categorical.support(0, 4, 5)
    probs = torch.tensor(
        [[[0.6, 0.0, 0.0, 0.0, 0.4], [0.0, 0.1, 0.8, 0.1, 0.0]], [[0.0, 0.0, 0.0, 0.0, 1.0], [1, 0, 0, 0, 0]]]
    )
    actions = categorical.greedy((probs + 1e-12).log(), z)
    assert actions.dtype == torch.int64
    assert actions.tolist() == [1, 0]  # means 1.6 < 2.0, and 4 > 0


def test_greedy_looks_at_probabilities_and_not_at_logits() -> None:
    z = categorical.support(1, 2, 2)
    logits = torch.tensor([[[9.0, 9.0], [0.0, 3.0]]])  # z·logits would prefer action 0
    assert categorical.greedy(logits, z).tolist() == [1]


# -------------------- projection


@pytest.mark.parametrize(("vmin", "vmax", "atoms"), SUPPORTS)
def test_the_projection_of_a_bellman_update_is_the_papers_triple_loop(vmin: float, vmax: float, atoms: int) -> None:
    z = categorical.support(vmin, vmax, atoms, dtype=torch.float64)
    probs = random_masses(4, atoms, seed=1)
    reward = torch.tensor([0.0, 0.3, -1.0, 1.7], dtype=torch.float64)
    discount = torch.tensor([0.99, 1.0, 0.5, 0.0], dtype=torch.float64)
    positions = reward[:, None] + discount[:, None] * z
    projected = categorical.cramer_project(probs, positions, z).numpy()
    np.testing.assert_allclose(projected, exact_projection(probs, positions, vmin, vmax, atoms), atol=1e-12)
    np.testing.assert_allclose(projected, index_projection(probs, positions, vmin, vmax, atoms), atol=1e-12)


@quick
@given(supports, seeds, st.integers(1, 9), st.floats(0, 2))
def test_any_masses_anywhere_are_projected_as_the_triple_loop_does(
    s: tuple[float, float, int], seed: int, sources: int, spread: float
) -> None:
    vmin, vmax, atoms = s
    z = categorical.support(vmin, vmax, atoms, dtype=torch.float64)
    unit = torch.rand(2, sources, generator=generator(seed), dtype=torch.float64)
    positions = (vmin + vmax) / 2 + (2 * unit - 1) * spread * (vmax - vmin)  # up to 1.5 widths outside
    probs = random_masses(2, sources, seed=seed)
    projected = categorical.cramer_project(probs, positions, z).numpy()
    assert projected.shape == (2, atoms)
    np.testing.assert_allclose(projected, exact_projection(probs, positions, vmin, vmax, atoms), atol=1e-9)
    np.testing.assert_allclose(projected, index_projection(probs, positions, vmin, vmax, atoms), atol=1e-9)


@pytest.mark.parametrize(("vmin", "vmax", "atoms"), SUPPORTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_masses_that_fall_exactly_on_atoms_stay_there(vmin: float, vmax: float, atoms: int, dtype: torch.dtype) -> None:
    z = categorical.support(vmin, vmax, atoms, dtype=dtype)
    probs = random_masses(3, atoms, seed=2, dtype=dtype)
    projected = categorical.cramer_project(probs, z.expand(3, atoms), z)
    torch.testing.assert_close(projected, probs, rtol=0, atol=2e-5 if dtype == torch.float32 else 1e-12)


def test_a_shift_by_whole_atoms_moves_the_masses_by_whole_atoms_and_piles_up_at_the_end() -> None:
    z = categorical.support(-2, 2, 5)
    probs = torch.tensor([[0.1, 0.2, 0.3, 0.15, 0.25]])
    projected = categorical.cramer_project(probs, z[None] + 2, z)
    torch.testing.assert_close(projected, torch.tensor([[0.0, 0.0, 0.1, 0.2, 0.7]]))


@quick
@given(supports, seeds)
def test_no_mass_is_lost_or_negative_in_float32(s: tuple[float, float, int], seed: int) -> None:
    z = categorical.support(*s)
    probs = random_masses(8, s[2], seed=seed, dtype=torch.float32)
    reward = torch.randn(8, generator=generator(seed)) * (s[1] - s[0])
    projected = categorical.cramer_project(probs, reward[:, None] + 0.99 * z, z)
    torch.testing.assert_close(projected.sum(-1), torch.ones(8), rtol=0, atol=2e-6)
    assert (projected >= 0).all()


@quick
@given(supports, seeds, st.integers(1, 9))
def test_the_mean_is_preserved_when_nothing_is_clipped(s: tuple[float, float, int], seed: int, sources: int) -> None:
    z = categorical.support(*s, dtype=torch.float64)
    positions = s[0] + (s[1] - s[0]) * torch.rand(3, sources, generator=generator(seed), dtype=torch.float64)
    probs = random_masses(3, sources, seed=seed)
    projected = categorical.cramer_project(probs, positions, z)
    np.testing.assert_allclose((projected @ z).numpy(), (probs * positions).sum(-1).numpy(), atol=1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_the_projection_is_the_nearest_distribution_in_cramer_distance(seed: int) -> None:
    rng = np.random.default_rng(seed)
    z = np.linspace(-1.5, 2.0, 6)
    probs, positions = rng.dirichlet(np.ones(7)), rng.uniform(-3, 3.5, 7)  # some lie outside the support
    nearest = cramer_argmin(probs, positions, z)
    batch = torch.from_numpy(probs)[None], torch.from_numpy(positions)[None]
    ours = categorical.cramer_project(*batch, torch.from_numpy(z))
    np.testing.assert_allclose(ours[0].numpy(), nearest, atol=1e-8)


def test_a_not_a_number_is_not_hidden_by_the_clipping() -> None:
    z = categorical.support(-1, 1, 3)
    projected = categorical.cramer_project(torch.ones(1, 1), torch.tensor([[float("nan")]]), z)
    assert projected.isnan().any()


def test_mismatched_shapes_are_refused_instead_of_broadcast() -> None:
    z = categorical.support(-1, 1, 3)
    with pytest.raises(AssertionError):
        categorical.cramer_project(torch.ones(4, 3), z[None], z)
    with pytest.raises(AssertionError):
        categorical.bellman_positions(torch.ones(4, 1), torch.ones(4, 1), z)
    with pytest.raises(AssertionError):
        categorical.bellman_positions(torch.ones(4), torch.ones(1), z)
    for loss in (categorical.cross_entropy, categorical.kl_divergence):
        with pytest.raises(AssertionError):
            loss(torch.ones(3), torch.ones(4, 3))
    with pytest.raises(AssertionError):
        categorical.at_action(torch.ones(4, 2, 3), torch.zeros(1, dtype=torch.int64))


def test_every_tensor_is_made_on_the_device_of_the_arguments() -> None:
    z = categorical.support(-1, 1, 5, device="meta")
    reward, action = torch.ones(3, device="meta"), torch.zeros(3, dtype=torch.int64, device="meta")
    logits = torch.zeros(3, 2, 5, device="meta")
    for target in (
        categorical.target_distribution(reward, reward, logits, z),
        categorical.target_distribution(reward, reward, logits, z, action),
    ):
        assert target.device.type == "meta"
        assert target.shape == (3, 5)


# -------------------- Bellman target


@pytest.mark.parametrize("steps", [1, 3, 7])
def test_an_n_step_target_discounts_the_atoms_by_gamma_to_the_n(steps: int) -> None:
    vmin, vmax, atoms = -10.0, 10.0, 21
    z = categorical.support(vmin, vmax, atoms, dtype=torch.float64)
    rewards = [0.5 * i - 1 for i in range(steps)]
    positions = np.zeros((1, atoms))
    for k in range(atoms):  # the return, one step at a time from behind
        ret = vmin + k * (vmax - vmin) / (atoms - 1)
        for r in reversed(rewards):
            ret = r + 0.9 * ret
        positions[0, k] = ret
    n_step_reward = torch.tensor([sum(0.9**i * r for i, r in enumerate(rewards))], dtype=torch.float64)
    discount = torch.tensor([0.9**steps], dtype=torch.float64)
    np.testing.assert_allclose(categorical.bellman_positions(n_step_reward, discount, z).numpy(), positions, atol=1e-12)
    logits = torch.randn(1, 1, atoms, generator=generator(3), dtype=torch.float64)
    target = categorical.target_distribution(n_step_reward, discount, logits, z).numpy()
    masses = logits[:, 0].softmax(-1)
    expected = exact_projection(masses, torch.from_numpy(positions), vmin, vmax, atoms)
    np.testing.assert_allclose(target, expected, atol=1e-12)


@pytest.mark.parametrize(
    ("reward", "lower", "share"), [(0.0, 10, 1.0), (2.25, 12, 0.75), (99.0, 20, 1.0), (-99.0, 0, 1.0)]
)
def test_at_a_termination_all_mass_goes_to_the_clipped_reward(reward: float, lower: int, share: float) -> None:
    z = categorical.support(-10, 10, 21)
    logits = torch.randn(1, 3, 21, generator=generator(4))
    target = categorical.target_distribution(torch.tensor([reward]), torch.zeros(1), logits, z)[0]
    expected = torch.zeros(21)
    expected[lower] = share
    if share < 1:
        expected[lower + 1] = 1 - share
    torch.testing.assert_close(target, expected, rtol=0, atol=1e-6)


def test_the_target_takes_the_action_that_its_own_network_likes_best() -> None:
    z = categorical.support(-3, 3, 7, dtype=torch.float64)
    logits = 2 * torch.randn(6, 4, 7, generator=generator(5), dtype=torch.float64)
    reward, discount = torch.linspace(-1, 1, 6, dtype=torch.float64), torch.full((6,), 0.9, dtype=torch.float64)
    target = categorical.target_distribution(reward, discount, logits, z)
    chosen = []
    for n in range(6):
        means = []
        for a in range(4):
            weights = [exp(x) for x in logits[n, a].tolist()]
            means.append(sum(w * v for w, v in zip(weights, z.tolist(), strict=True)) / sum(weights))
        chosen.append(max(range(4), key=means.__getitem__))
    assert len(set(chosen)) > 1
    masses = torch.stack([logits[n, a].softmax(-1) for n, a in enumerate(chosen)])
    positions = torch.stack([reward[n] + 0.9 * z for n in range(6)])
    np.testing.assert_allclose(target.numpy(), exact_projection(masses, positions, -3.0, 3.0, 7), atol=1e-12)


def test_double_q_learning_replaces_the_choice_but_not_the_distribution() -> None:
    z = categorical.support(-3, 3, 7, dtype=torch.float64)
    logits = torch.randn(5, 3, 7, generator=generator(6), dtype=torch.float64)
    nothing, all_of_it = torch.zeros(5, dtype=torch.float64), torch.ones(5, dtype=torch.float64)
    action = torch.tensor([2, 0, 1, 1, 2])
    target = categorical.target_distribution(nothing, all_of_it, logits, z, action)
    for n, a in enumerate(action.tolist()):  # r = 0 and γ = 1: the projection changes nothing
        np.testing.assert_allclose(target[n].numpy(), logits[n, a].softmax(-1).numpy(), atol=1e-12)


def test_the_target_carries_no_gradient() -> None:
    z = categorical.support(-1, 1, 5)
    logits = torch.zeros(2, 3, 5, requires_grad=True)
    assert not categorical.target_distribution(torch.ones(2), torch.ones(2), logits, z).requires_grad


@pytest.mark.fault("E43", "rewards beyond the support: the log counts them")
def test_the_clipped_fraction_counts_positions_outside_the_support() -> None:
    z = categorical.support(-1, 1, 3)
    positions = torch.tensor([[-1.5, -1.0, 0.2, 1.0], [1.01, 7.0, 0.0, -0.3]])
    assert categorical.clipped_fraction(positions, z).item() == pytest.approx(3 / 8)
    assert categorical.clipped_fraction(z, z).item() == 0


# -------------------- losses


def test_only_the_stored_actions_atoms_get_a_gradient() -> None:
    logits = torch.randn(4, 3, 5, generator=generator(7), requires_grad=True)
    action = torch.tensor([0, 2, 1, 2])
    categorical.kl_divergence(
        random_masses(4, 5, dtype=torch.float32), categorical.at_action(logits, action)
    ).sum().backward()
    assert logits.grad is not None
    for n in range(4):
        for a in range(3):
            assert bool(logits.grad[n, a].any()) == (a == action[n].item())


def test_at_action_picks_each_samples_own_action() -> None:
    logits = torch.arange(24.0).reshape(3, 2, 4)
    assert categorical.at_action(logits, torch.tensor([1, 0, 1])).tolist() == [
        [4, 5, 6, 7],
        [8, 9, 10, 11],
        [20, 21, 22, 23],
    ]


@pytest.mark.parametrize("action", [-1, 2])
def test_an_action_that_does_not_exist_is_refused_rather_than_wrapped(action: int) -> None:
    with pytest.raises((RuntimeError, IndexError)):
        categorical.at_action(torch.zeros(1, 2, 4), torch.tensor([action]))


def test_cross_entropy_and_divergence_are_the_sums_in_the_paper() -> None:
    target, logits = random_masses(4, 6, seed=8), torch.randn(4, 6, generator=generator(8), dtype=torch.float64)
    crossed, divergence = categorical.cross_entropy(target, logits), categorical.kl_divergence(target, logits)
    for n in range(4):
        weights = [exp(x) for x in logits[n].tolist()]
        model = [w / sum(weights) for w in weights]
        pairs = list(zip(target[n].tolist(), model, strict=True))
        assert crossed[n].item() == pytest.approx(-sum(p * log(q) for p, q in pairs), abs=1e-12)
        assert divergence[n].item() == pytest.approx(sum(p * log(p / q) for p, q in pairs), abs=1e-12)


def test_the_gradients_of_both_losses_pass_the_finite_difference_check() -> None:
    logits = torch.randn(3, 5, generator=generator(9), dtype=torch.float64, requires_grad=True)
    target = random_masses(3, 5, seed=9)
    assert gradcheck(lambda x: categorical.cross_entropy(target, x), (logits,))
    assert gradcheck(lambda x: categorical.kl_divergence(target, x), (logits,))


@pytest.mark.parametrize("loss", [categorical.cross_entropy, categorical.kl_divergence])
def test_the_gradient_with_respect_to_logits_is_the_model_minus_the_target(loss: object) -> None:
    assert callable(loss)
    logits = torch.tensor([[0.0, log(3.0), log(4.0)]], dtype=torch.float64, requires_grad=True)
    target = torch.tensor([[0.0, 0.5, 0.5]], dtype=torch.float64)
    loss(target, logits).sum().backward()
    assert logits.grad is not None
    np.testing.assert_allclose(logits.grad.numpy(), [[1 / 8 - 0, 3 / 8 - 1 / 2, 4 / 8 - 1 / 2]], atol=1e-12)


def test_a_saturated_wrong_atom_still_gets_its_full_gradient() -> None:
    logits = torch.tensor([[200.0, 0.0]], requires_grad=True)
    loss = categorical.cross_entropy(torch.tensor([[0.0, 1.0]]), logits).sum()
    loss.backward()
    assert loss.item() == pytest.approx(200.0)
    assert logits.grad is not None
    assert logits.grad.tolist() == [[1.0, -1.0]]


def test_atoms_without_target_mass_contribute_exactly_nothing() -> None:
    with_empty = categorical.kl_divergence(torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.0, 0.0]]))
    assert with_empty.item() == pytest.approx(log(3), rel=1e-6)
    saturated = categorical.kl_divergence(torch.tensor([[1.0, 0.0]]), torch.tensor([[500.0, 0.0]]))
    assert saturated.item() == 0.0


@quick
@given(seeds)
def test_the_divergence_is_positive_unless_the_model_equals_the_target(seed: int) -> None:
    target, logits = (
        random_masses(5, 8, seed=seed),
        2 * torch.randn(5, 8, generator=generator(seed + 1), dtype=torch.float64),
    )
    assert (categorical.kl_divergence(target, logits) > 1e-6).all()
    assert categorical.kl_divergence(target, target.log() + 7.0).abs().max().item() < 1e-12
