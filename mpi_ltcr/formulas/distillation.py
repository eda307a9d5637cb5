"""What agents learn from each other: LTCR Eq. 6 and CDRL Eq. 1 to 3.

Legend
    N    states (and actions) of a lesson            K    number of atoms
    T    steps of a rollout                          A    number of actions (of the student's task)
    Z_i  the teacher's distribution of returns, Z_j the student's (LTCR)
    z^α  the teacher's logits, F(z^α) the same after the alignment network: `aligned`
    z^β  the student's policy logits, z^β' its distillation logits (CDRL)
    τ    temperature: softmax(z/τ); above 1 it softens

All divergences are in nats. Eq. 6 sums over n and Eq. 2, 3 over t as printed; all losses here take the MEAN over n or
t, as the CDRL authors' code does, so that the size of a gradient does not depend on the size of a lesson. The sum over
atoms or actions stays. Wrong shapes raise AssertionError.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Direction = Literal["student||aligned", "aligned||student"]


def peer_loss(teacher_probs: Tensor, student_logits: Tensor) -> Tensor:
    """D_KL(Z_i || Z_j) = mean_n Σ_k Z_i(z_k) log(Z_i(z_k) / Z_j(z_k)): LTCR Eq. 6. (N, K) and (N, K) -> ().

    The teacher gives probabilities at the stored actions, the student logits there; the teacher gets no gradient.
    Deviation: Eq. 6 prints a sum over n.
    """
    assert teacher_probs.ndim == 2, teacher_probs.shape
    assert teacher_probs.shape == student_logits.shape, (teacher_probs.shape, student_logits.shape)
    return F.kl_div(student_logits.log_softmax(-1), teacher_probs.detach(), reduction="none").sum(-1).mean()


def kl_between(p: Tensor, q: Tensor) -> Tensor:
    """D_KL(p || q) of probabilities, for logs and figures (LTCR Fig. 2). (..., K) and (..., K) -> (...).

    0 log 0 counts as 0; where p has mass and q has none the answer is infinite.
    """
    assert p.shape == q.shape, (p.shape, q.shape)
    return (torch.xlogy(p, p) - torch.xlogy(p, q)).sum(-1)


def mean_target(probs: Tensor) -> Tensor:
    """The "average of each original target distributions" of LTCR section 3.2. (agents, N, K) -> (N, K).

    Over all agents, oneself included, as in FedMD. Deviation from FedMD: it averages scores before the softmax; an
    average of probabilities keeps the mean return, that of logits does not.
    """
    assert probs.ndim == 3, probs.shape
    return probs.mean(0)


def softened_kl(teacher_logits: Tensor, student_logits: Tensor, temperature: float) -> Tensor:
    """mean_t Σ_a softmax(z^α/τ) ln[softmax(z^α/τ) / softmax(z^β')]: CDRL Eq. 2, and Eq. 3 on aligned logits.

    (T, A) and (T, A) -> (). τ softens the teacher alone, as printed. The teacher (and with it the alignment network)
    gets no gradient: Algorithm 1 line 31 trains the student only. Deviation: Eq. 3 prints a sum over t.

    Raises ValueError unless τ > 0.
    """
    return _kl_of_logits(_softened(teacher_logits.detach(), temperature), student_logits).mean()


def alignment_loss(
    aligned_logits: Tensor,
    student_policy_logits: Tensor,
    temperature: float,
    direction: Direction = "student||aligned",
) -> Tensor:
    """What trains the alignment network, CDRL Algorithm 1 line 27. (T, A) and (T, A) -> (); no gradient to the student.

        "student||aligned"    mean_t KL(softmax(z^β/τ) || softmax(F(z^α)))    the print's order of arguments
        "aligned||student"    mean_t KL(softmax(F(z^α)/τ) || softmax(z^β))    the authors' code, there with τ = 1

    τ belongs to the first argument, as in Eq. 3. Deviations: line 27 prints l_KL(z^β, z^α, τ), on which θ_ω has no
    influence, so F must stand around z^α; and it prints a sum over t.

    Raises ValueError unless τ > 0 and for an unknown direction.
    """
    student = student_policy_logits.detach()
    if direction == "student||aligned":
        return _kl_of_logits(_softened(student, temperature), aligned_logits).mean()
    if direction == "aligned||student":
        return _kl_of_logits(_softened(aligned_logits, temperature), student).mean()
    raise ValueError(f"direction must be 'student||aligned' or 'aligned||student', got {direction!r}")


def _softened(logits: Tensor, temperature: float) -> Tensor:
    """z/τ, the argument of CDRL Eq. 1."""
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    return logits / temperature


def _kl_of_logits(p_logits: Tensor, q_logits: Tensor) -> Tensor:
    """D_KL(softmax(p) || softmax(q)), (T, A) and (T, A) -> (T,). In logarithms throughout: p = 0 has a gradient too."""
    assert p_logits.ndim == 2, p_logits.shape
    assert p_logits.shape == q_logits.shape, (p_logits.shape, q_logits.shape)
    log_p, log_q = p_logits.log_softmax(-1), q_logits.log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)
