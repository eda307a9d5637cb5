"""A quantile-regression agent (QR-DQN, Dabney et al. 2018) for LTCR teams: it speaks and digests atoms."""

from __future__ import annotations

from typing import Any

import torch

from mpi_ltcr.agents.c51 import C51Agent
from mpi_ltcr.agents.soundness import names_batch
from mpi_ltcr.formulas import categorical, quantile
from mpi_ltcr.interfaces import Lesson, Metrics
from mpi_ltcr.memory.replay import Sample


class QRAgent(C51Agent):
    """As C51Agent, but what its network knows of Z(s, a) are N quantiles, anywhere, and not masses of fixed atoms.

    Its answers are the Cramer projection of its quantiles onto the team's support; a teacher's masses it learns by
    quantile regression on the atoms. The network's outputs are in half widths of the support, from its middle: of the
    size that networks begin with.
    """

    def __init__(self, **parts: Any) -> None:
        """As C51Agent; the `atoms` of its networks are quantiles."""
        super().__init__(**parts)
        low, high = float(self.support[0]), float(self.support[-1])
        self.middle, self.half_width = (low + high) / 2, (high - low) / 2
        self.kappa = (high - low) / (len(self.support) - 1)  # one atom

    def _quantiles(self, outputs: torch.Tensor) -> torch.Tensor:
        """The network's outputs in units of the reward, any shape."""
        return self.middle + self.half_width * outputs

    def _best(self, outputs: torch.Tensor) -> torch.Tensor:
        return outputs.mean(-1).argmax(-1)

    def _expected(self, outputs: torch.Tensor) -> torch.Tensor:
        return self._quantiles(outputs).mean(-1)

    def _probs(self, outputs: torch.Tensor) -> torch.Tensor:
        quantiles = self._quantiles(outputs)
        return quantile.to_atoms(quantiles.flatten(0, 1), self.support).view(*quantiles.shape[:2], -1)

    @names_batch
    def _follow_td(self, sample: Sample) -> Metrics:
        batch = sample.batch
        reward, discount = self._tensor(batch.reward), self._tensor(batch.discount)
        with torch.no_grad():
            following, next_action = self._following(self._obs(batch.next_obs))
            quantiles = self._quantiles(categorical.at_action(following, next_action))
            points = reward.unsqueeze(1) + discount.unsqueeze(1) * quantiles
        with self.noise.fresh():
            own = self._quantiles(self._at(batch.obs, batch.action))
        losses = quantile.huber_loss(own, points, torch.full_like(points, 1 / points.shape[1]), self.kappa)
        norm = self.revisit_stepper.step((self._tensor(sample.weights) * losses).mean())
        if self.replay.rated:
            self.replay.rate(sample.rows, losses.detach().cpu().numpy())
        return {
            "td_loss": float(losses.detach().mean()),
            "revisit_grad_norm": norm,
            "q_mean": float(own.detach().mean()),
            "clipped_fraction": float(categorical.clipped_fraction(points, self.support)),
        }

    def _follow_kl(self, lesson: Lesson) -> Metrics:
        own = self._quantiles(self._at(lesson.features.obs, lesson.features.action))
        masses = self._tensor(lesson.target)
        loss = quantile.huber_loss(own, self.support.expand_as(masses), masses, self.kappa).mean()
        norm = self.digest_stepper.step(loss)
        return {"distill_loss": float(loss.detach()), "digest_grad_norm": norm}
