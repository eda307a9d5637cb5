"""Quantities that change with the step counter, in plain Python.

Legend
    step      steps taken so far; step and duration share one unit, the house's being frames (agent steps)
"""

from __future__ import annotations


def linear(step: int | float, start: float, end: float, duration: int) -> float:
    """From `start` at step 0 straight to `end` at step `duration`, and `end` exactly ever after.

    LTCR section 4.1 gives the ends of the exploration schedule (ε 1 -> 0.01), not its shape. A duration of 0 means
    `end` from the first step on. Steps before 0 count as 0.

    Raises ValueError for a negative duration.
    """
    if duration < 0:
        raise ValueError(f"duration must not be negative, got {duration}")
    step = max(step, 0)
    if step >= duration:
        return end
    return start + (end - start) * step / duration
