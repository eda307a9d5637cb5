"""Nothing that is not finite is ever told or saved."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np

from mpi_ltcr.interfaces import Metrics, NonFiniteError
from mpi_ltcr.nets.flat import FlatParameters

Update = TypeVar("Update", bound=Callable[..., Metrics])


def names_batch(update: Update) -> Update:
    """Decorate a method that learns from its first argument: its NonFiniteError brings that along, to be looked at."""

    @functools.wraps(update)
    def watched(self: Any, batch: Any, *args: Any, **kwargs: Any) -> Metrics:
        try:
            return update(self, batch, *args, **kwargs)
        except NonFiniteError as error:
            error.batch = batch
            raise

    return cast(Update, watched)


def finite_answer(probs: np.ndarray) -> np.ndarray:
    """What is to be told, (N, K); raises NonFiniteError if a mass is not finite."""
    if not math.isfinite(probs.sum()):  # it is exactly if all of them are
        raise NonFiniteError("answer: this agent's distributions are not finite; nothing was sent")
    return probs


def require_finite(*flats: FlatParameters) -> None:
    """Raise NonFiniteError if a weight is not finite."""
    if not all(flat.values.isfinite().all() for flat in flats):
        raise NonFiniteError("state: this agent's weights are not finite and were not saved; lower agent.lr")
