"""Nothing that is not finite is ever told or saved."""

from __future__ import annotations

import math

import numpy as np

from mpi_ltcr.interfaces import NonFiniteError
from mpi_ltcr.nets.flat import FlatParameters


def finite_answer(probs: np.ndarray) -> np.ndarray:
    """What is to be told, (N, K); raises NonFiniteError if a mass is not finite."""
    if not math.isfinite(probs.sum()):  # it is exactly if all of them are
        raise NonFiniteError("answer: this agent's distributions are not finite; nothing was sent")
    return probs


def require_finite(*flats: FlatParameters) -> None:
    """Raise NonFiniteError if a weight is not finite."""
    if not all(flat.values.isfinite().all() for flat in flats):
        raise NonFiniteError("state: this agent's weights are not finite and were not saved; lower agent.lr")
