"""Several steps as one transition (Sutton 1988; in Rainbow, Hessel et al. 2018, section 3).

Legend
    n          steps that are joined                 r_t, γ_t   reward and discount of step t (γ_t = 0: terminal)
    R, Γ       R = Σ_{i<n} (Π_{j<i} γ_{t+j}) r_{t+i},  Γ = Π_{i<n} γ_{t+i}: the target is R + Γ Z(s_{t+n}, a*)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import numpy as np

from mpi_ltcr.interfaces import State, Transition


class NStep:
    """Joins each step with the n - 1 that follow it in its episode.

    Towards the end of an episode fewer follow: those tails come out as well, shorter, also where the episode was
    truncated. No window ever runs into the next episode. Games that are played side by side have a window each.

    Args:
        steps: n.
    """

    def __init__(self, *, steps: int) -> None:
        self.steps = steps
        self.windows: dict[int, deque[Transition]] = {}

    def push(self, transition: Transition) -> list[Transition]:
        """One step in; the transitions that are complete with it, oldest first: none, one, or the n of an end."""
        if self.steps == 1:
            return [transition]
        window = self.windows.setdefault(transition.game, deque())
        window.append(transition)
        complete = []
        ended = transition.over or transition.discount == 0
        while window and (ended or len(window) == self.steps):
            complete.append(join(window))
            window.popleft()
        return complete

    def state(self) -> State:
        """The steps that still wait for their followers, by game."""
        return {str(game): _stacked(window) for game, window in self.windows.items() if window}

    def load_state(self, state: State) -> None:
        self.windows = {int(game): deque(_separate(steps)) for game, steps in state.items()}


def join(steps: Iterable[Transition]) -> Transition:
    """Successive steps of one episode as one transition: R and Γ, from the first observation to the last one."""
    first, *others = steps
    last, reward, discount = first, first.reward, first.discount
    for last in others:
        reward += discount * last.reward
        discount *= last.discount
    return Transition(first.obs, first.action, reward, discount, last.next_obs, last.over, first.game)


def _stacked(window: Iterable[Transition]) -> State:
    return {name: np.stack(values) for name, values in zip(Transition._fields, zip(*window, strict=True), strict=True)}


def _separate(steps: State) -> list[Transition]:
    """What `_stacked` made of a window, its scalars Python's own again: float32 would round otherwise."""
    columns = [[v.item() if np.ndim(v) == 0 else v for v in steps[name]] for name in Transition._fields]
    return [Transition(*row) for row in zip(*columns, strict=True)]
