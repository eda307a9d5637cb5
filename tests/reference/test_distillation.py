"""LTCR Eq. 6 and CDRL Eq. 1 to 3 against plain loops, scipy's relative entropy and finite differences."""

from __future__ import annotations

from math import exp, log

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import rel_entr
from torch import Tensor
from torch.autograd import gradcheck

from mpi_ltcr.formulas import distillation

torch.set_num_threads(1)

quick = settings(max_examples=40, deadline=None, derandomize=True)
seeds = st.integers(0, 2**31 - 1)


def random_logits(*shape: int, seed: int, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)


def plain_softmax(row: list[float], temperature: float = 1.0) -> list[float]:
    weights = [exp(x / temperature) for x in row]
    return [w / sum(weights) for w in weights]


def plain_kl(p: list[float], q: list[float]) -> float:
    return sum(a * log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


# -------------------- LTCR Eq. 6


def test_the_peer_loss_is_equation_6_averaged_over_the_lesson() -> None:
    teacher, student = random_logits(5, 7, seed=0).softmax(-1), random_logits(5, 7, seed=1)
    total = 0.0
    for n in range(5):
        model = plain_softmax(student[n].tolist())
        for k in range(7):
            z_i = teacher[n, k].item()
            total += z_i * log(z_i / model[k])
    assert distillation.peer_loss(teacher, student).item() == pytest.approx(total / 5, abs=1e-12)


def test_the_peer_loss_does_not_grow_with_the_size_of_the_lesson() -> None:
    teacher, student = random_logits(5, 7, seed=0).softmax(-1), random_logits(5, 7, seed=1)
    once, thrice = (distillation.peer_loss(teacher.repeat(m, 1), student.repeat(m, 1)).item() for m in (1, 3))
    assert thrice == pytest.approx(once, abs=1e-12)


def test_the_teacher_of_a_peer_loss_gets_no_gradient() -> None:
    teacher = random_logits(3, 4, seed=2).softmax(-1).requires_grad_()
    student = random_logits(3, 4, seed=3).requires_grad_()
    distillation.peer_loss(teacher, student).backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert student.grad.abs().min().item() > 0


def test_the_gradient_of_the_peer_loss_is_student_minus_teacher_shared_by_the_lesson() -> None:
    student = torch.tensor([[0.0, log(3.0)], [0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor([[0.5, 0.5], [1.0, 0.0]], dtype=torch.float64)
    distillation.peer_loss(teacher, student).backward()
    assert student.grad is not None
    np.testing.assert_allclose(student.grad.numpy(), [[-0.125, 0.125], [-0.25, 0.25]], atol=1e-12)


def test_the_gradient_of_the_peer_loss_passes_the_finite_difference_check() -> None:
    teacher = random_logits(3, 5, seed=4).softmax(-1)
    assert gradcheck(lambda x: distillation.peer_loss(teacher, x), (random_logits(3, 5, seed=5).requires_grad_(),))


def test_a_teacher_with_empty_atoms_gives_a_finite_lesson() -> None:
    student = torch.zeros(1, 4, requires_grad=True)
    loss = distillation.peer_loss(torch.tensor([[0.0, 1.0, 0.0, 0.0]]), student)
    loss.backward()
    assert loss.item() == pytest.approx(log(4), rel=1e-6)
    assert student.grad is not None
    torch.testing.assert_close(student.grad, torch.tensor([[0.25, -0.75, 0.25, 0.25]]))


@quick
@given(seeds)
def test_a_peer_loss_is_positive_unless_the_student_equals_the_teacher(seed: int) -> None:
    teacher, student = random_logits(4, 6, seed=seed), random_logits(4, 6, seed=seed + 1)
    assert distillation.peer_loss(teacher.softmax(-1), student).item() > 1e-6
    assert abs(distillation.peer_loss(teacher.softmax(-1), teacher - 3.0).item()) < 1e-12


def test_following_the_peer_loss_brings_the_student_to_the_teacher() -> None:
    teacher = random_logits(2, 5, seed=6).softmax(-1)
    student = torch.zeros(2, 5, dtype=torch.float64, requires_grad=True)
    for _ in range(400):
        (slope,) = torch.autograd.grad(distillation.peer_loss(teacher, student), student)
        student = (student - 2 * slope).detach().requires_grad_()
    np.testing.assert_allclose(student.softmax(-1).detach().numpy(), teacher.numpy(), atol=1e-4)


# -------------------- logging, averaging


@quick
@given(seeds)
def test_the_divergence_between_probabilities_is_scipys_relative_entropy(seed: int) -> None:
    p, q = random_logits(2, 3, 6, seed=seed).softmax(-1), random_logits(2, 3, 6, seed=seed + 1).softmax(-1)
    ours = distillation.kl_between(p, q)
    assert ours.shape == (2, 3)
    np.testing.assert_allclose(ours.numpy(), rel_entr(p.numpy(), q.numpy()).sum(-1), atol=1e-12)
    assert (ours > 0).all()
    assert distillation.kl_between(p, p).abs().max().item() < 1e-12


def test_the_divergence_is_not_symmetric() -> None:
    p, q = torch.tensor([0.9, 0.1], dtype=torch.float64), torch.tensor([0.5, 0.5], dtype=torch.float64)
    assert distillation.kl_between(p, q).item() == pytest.approx(0.9 * log(1.8) + 0.1 * log(0.2), abs=1e-12)
    assert distillation.kl_between(q, p).item() == pytest.approx(0.5 * log(5 / 9) + 0.5 * log(5), abs=1e-12)


def test_empty_atoms_count_nothing_in_p_and_infinitely_in_q_alone() -> None:
    p, q = torch.tensor([0.5, 0.5, 0.0, 0.0]), torch.tensor([0.25, 0.25, 0.5, 0.0])
    assert distillation.kl_between(p, q).item() == pytest.approx(log(2), rel=1e-6)
    assert distillation.kl_between(q, p).item() == float("inf")


def test_the_mean_target_averages_probabilities_over_all_agents() -> None:
    probs = random_logits(3, 4, 5, seed=7, scale=3.0).softmax(-1)
    mean = distillation.mean_target(probs)
    assert mean.shape == (4, 5)
    for n in range(4):
        for k in range(5):
            assert mean[n, k].item() == pytest.approx(sum(probs[i, n, k].item() for i in range(3)) / 3, abs=1e-12)
    np.testing.assert_allclose(mean.sum(-1).numpy(), 1.0, atol=1e-12)


def test_the_mean_target_keeps_the_mean_return_of_the_agents() -> None:
    """What an average of logits would not: there a confident agent outvotes the others."""
    returns = torch.tensor([0.0, 10.0], dtype=torch.float64)
    probs = torch.tensor([[[0.999, 0.001]], [[0.4, 0.6]]], dtype=torch.float64)
    assert (distillation.mean_target(probs) @ returns).item() == pytest.approx((0.01 + 6.0) / 2, abs=1e-12)


# -------------------- CDRL Eq. 1-3


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_softened_divergence_is_equation_3_averaged_over_the_steps(temperature: float) -> None:
    teacher, student = random_logits(6, 4, seed=8, scale=2.0), random_logits(6, 4, seed=9)
    total = 0.0
    for t in range(6):
        total += plain_kl(plain_softmax(teacher[t].tolist(), temperature), plain_softmax(student[t].tolist()))
    ours = distillation.softened_kl(teacher, student, temperature).item()
    assert ours == pytest.approx(total / 6, abs=1e-12)


def test_the_teacher_of_a_distillation_gets_no_gradient() -> None:
    teacher, student = random_logits(3, 4, seed=10).requires_grad_(), random_logits(3, 4, seed=11).requires_grad_()
    distillation.softened_kl(teacher, student, 2.0).backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert student.grad.any()


def test_the_gradient_of_a_distillation_passes_the_finite_difference_check() -> None:
    teacher, student = random_logits(3, 4, seed=10), random_logits(3, 4, seed=11).requires_grad_()
    assert gradcheck(lambda x: distillation.softened_kl(teacher, x, 2.0), (student,))


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_alignment_loss_takes_the_softened_student_as_target_by_default(temperature: float) -> None:
    aligned, student = random_logits(5, 3, seed=12), random_logits(5, 3, seed=13)
    total = 0.0
    for t in range(5):
        total += plain_kl(plain_softmax(student[t].tolist(), temperature), plain_softmax(aligned[t].tolist()))
    assert distillation.alignment_loss(aligned, student, temperature).item() == pytest.approx(total / 5, abs=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_alignment_loss_can_be_turned_round_as_in_the_authors_code(temperature: float) -> None:
    aligned, student = random_logits(5, 3, seed=12), random_logits(5, 3, seed=13)
    total = 0.0
    for t in range(5):
        total += plain_kl(plain_softmax(aligned[t].tolist(), temperature), plain_softmax(student[t].tolist()))
    ours = distillation.alignment_loss(aligned, student, temperature, "aligned||student").item()
    assert ours == pytest.approx(total / 5, abs=1e-12)
    assert ours != pytest.approx(distillation.alignment_loss(aligned, student, temperature).item(), abs=1e-3)


@pytest.mark.parametrize("direction", ["student||aligned", "aligned||student"])
def test_alignment_trains_the_alignment_network_and_not_the_student(direction: distillation.Direction) -> None:
    aligned, student = random_logits(3, 4, seed=14).requires_grad_(), random_logits(3, 4, seed=15).requires_grad_()
    distillation.alignment_loss(aligned, student, 2.0, direction).backward()
    assert student.grad is None
    fixed = student.detach()
    assert gradcheck(lambda x: distillation.alignment_loss(x, fixed, 2.0, direction), (aligned,))


@pytest.mark.parametrize("direction", ["student||aligned", "aligned||student"])
def test_probabilities_that_underflow_leave_loss_and_gradient_finite(direction: distillation.Direction) -> None:
    aligned = torch.tensor([[300.0, 0.0, -300.0]], requires_grad=True)
    loss = distillation.alignment_loss(aligned, torch.tensor([[0.0, 300.0, 0.0]]), 1.0, direction)
    loss.backward()
    assert loss.item() == pytest.approx(300.0)
    assert aligned.grad is not None
    assert aligned.grad.isfinite().all()


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_must_be_positive(temperature: float) -> None:
    logits = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="temperature"):
        distillation.softened_kl(logits, logits, temperature)
    with pytest.raises(ValueError, match="temperature"):
        distillation.alignment_loss(logits, logits, temperature)


def test_an_unknown_direction_is_refused_and_the_known_ones_are_named() -> None:
    with pytest.raises(ValueError, match=r"'student\|\|aligned' or 'aligned\|\|student', got 'reverse'"):
        distillation.alignment_loss(torch.zeros(2, 3), torch.zeros(2, 3), 1.0, "reverse")  # type: ignore[arg-type]


def test_lessons_of_another_shape_are_refused_instead_of_broadcast() -> None:
    for pair in (
        (torch.ones(1, 3), torch.ones(4, 3)),
        (torch.ones(4, 3), torch.ones(4, 2)),
        (torch.ones(3), torch.ones(3)),
    ):
        with pytest.raises(AssertionError):
            distillation.peer_loss(*pair)
        with pytest.raises(AssertionError):
            distillation.softened_kl(*pair, 1.0)
    with pytest.raises(AssertionError):
        distillation.kl_between(torch.ones(4, 3), torch.ones(3))
    with pytest.raises(AssertionError):
        distillation.mean_target(torch.ones(4, 3))
