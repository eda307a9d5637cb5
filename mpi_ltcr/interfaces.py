"""The nouns and verbs of the house.

Private is the agent's, public is the transfer's, and the program only turns the page.

Nouns are plain ``NamedTuple``s of arrays; verbs are ``Protocol``s. Nothing here imports anything of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

State = dict[str, Any]
"""A nested dict of numpy arrays, numbers, strings, None and `Sealed`: what a checkpoint can hold."""


class Sealed(NamedTuple):
    """A part of a state that will never change again: checkpoints write it once, and refer to it afterwards."""

    tree: State


Metrics = dict[str, float]
"""Named scalars of one update, e.g. ``{"td_loss": 0.7, "grad_norm": 1.2}``."""

Policy = Callable[[np.ndarray], int]
"""Chooses an action for one observation ``(*obs)``. May keep a recurrent state, so: one per episode."""


class NonFiniteError(FloatingPointError):
    """A loss, gradient, weight or demonstration is NaN or infinite. Nothing non-finite is sent or saved."""

    batch: Any = None
    """What it was computed from, where that is known: arrays, in named tuples or lists of them."""


class Transition(NamedTuple):
    """One step of experience, or a batch of them (then every field has a leading axis N)."""

    obs: np.ndarray
    action: Any
    reward: Any
    discount: Any
    """gamma^n: 0 only at a termination, or where a life is lost that counts as one. A truncation keeps it, so that the
    value there bootstraps."""
    next_obs: np.ndarray
    over: bool = False
    """Its episode ended with it, by termination or truncation: what follows belongs to another one."""
    game: int = 0
    """Of several that are played side by side, the one it belongs to."""


class Battle(NamedTuple):
    """What one ship did in a game of Space Battle."""

    result: int
    """1 the team won, 0 draw, -1 lost: by health at the end."""
    shots: int
    enemy_hits: int
    friend_hits: int
    hits_taken: int
    rams: int
    fire_fraction: float
    """Share of `fire` among its actions: "rarely shoots" (LTCR 4.2) as a number."""
    lived: int
    """Steps that it lived."""


class Life(NamedTuple):
    """One life of a game that has several (Atari): LTCR's Table 1 looks like scores per life."""

    value: float
    """Undiscounted return while it lasted, in the environment's own reward."""
    length: int


class Episode(NamedTuple):
    """A finished episode, in the environment's own reward."""

    value: float
    """Undiscounted return; of the team where the game is a team's."""
    length: int
    truncated: bool
    battle: Battle | None = None
    lives: tuple[Life, ...] = ()
    """In their order, the last one perhaps cut off by a truncation; none where the game counts no lives."""


class Step(NamedTuple):
    """What one turn of a loop hands out: the experience, and the episode that it ended, if any."""

    transition: Transition | None
    """None while a dead teammate waits for the others."""
    ended: Episode | None


class Features(NamedTuple):
    """phi = (s, a), LTCR section 2: ``obs (N, *obs)`` and ``action (N,)`` int64."""

    obs: np.ndarray
    action: np.ndarray


class Lesson(NamedTuple):
    """What is exchanged in both papers: states, and a teacher's distributions there.

    ``target`` is ``(N, K)`` atom probabilities (LTCR Eq. 6), ``(N, A)`` of a policy, or logits (CDRL Eq. 3);
    ``source (N,)`` is the index of the agent that taught each row, -1 for an average of several.
    """

    features: Features
    target: np.ndarray
    source: np.ndarray


class Rollout(NamedTuple):
    """Up to t_max steps of one episode in each of G games (CDRL Algorithm 1, lines 4 to 16): N steps, game by game."""

    obs: np.ndarray
    """(N, *obs)."""
    actions: np.ndarray
    """(N,) int64."""
    rewards: np.ndarray
    """(N,) float32."""
    lengths: tuple[int, ...]
    """(G,) steps of each game, N together."""
    start: Any
    """The recurrent state of each game before its first step."""
    bootstrap: tuple[float, ...]
    """(G,) v after the last step: 0 at a termination, V otherwise (a truncation bootstraps)."""
    first: tuple[bool, ...]
    """(G,) whether it is the first of its episode."""


class EnvSpec(NamedTuple):
    """What an agent must know of its environment."""

    obs_shape: tuple[int, ...]
    obs_dtype: np.dtype
    num_actions: int
    obs_scale: np.ndarray | float = 1.0
    """Observations are multiplied by it before they enter a network; broadcasts against ``obs_shape``."""
    frames_per_step: int = 1
    """Emulator frames in one agent step. Everything named `frames` counts agent steps."""
    reward_scale: float = 1.0
    """The learner sees ``reward * reward_scale``; logs hold the environment's own reward."""
    stacked: bool = False
    """The first axis of an observation is a stack of frames, to which a step adds one."""


class Stateful(Protocol):
    """Can be saved into a checkpoint and restored from it, random generators included."""

    def state(self) -> State: ...

    def load_state(self, state: State) -> None: ...


class Actor(Protocol):
    """What the environment loop needs of an agent."""

    def act(self, obs: np.ndarray) -> int:
        """An exploring action for one observation ``(*obs)``."""
        ...

    def observe(self, transition: Transition) -> None:
        """Phase 1: remember one step of its own experience."""
        ...


class Loop(Stateful, Protocol):
    """An environment between two steps, or a replica of one that is shared."""

    frames: int

    def steps(self, agent: Actor) -> Iterator[Step]:
        """Let `agent` act and observe for ever; cut with ``islice``."""
        ...


class RolloutActor(Protocol):
    """Plays games side by side, whose experience is cut into rollouts. A game that is over leaves the running one."""

    def act(self, obs: Sequence[np.ndarray]) -> list[int]:
        """An exploring action for each game that is left, in their order."""
        ...

    def observe(self, transitions: Sequence[Transition]) -> None:
        """Remember one step of each game that was left."""
        ...

    def finish(self) -> Rollout:
        """Close the running rollout; all games take part in the next one."""
        ...


class Agent(Actor, Stateful, Protocol):
    """LTCR's phases as verbs. An agent knows nothing of MPI: it runs alone or in a team alike."""

    def revisit(self) -> Metrics:
        """Phase 4: one update on private experience. Empty before the warm-up is over."""
        ...

    def answer(self, features: Features) -> np.ndarray:
        """Phase 2: its distributions ``(N, K)``, or policies ``(N, A)``, float32 at these features."""
        ...

    def mimic(self, lesson: Lesson) -> Metrics:
        """Phase 3: one update towards the teacher's distributions."""
        ...

    def values(self, features: Features) -> np.ndarray:
        """Its expected returns ``(N,)`` at these features, for the log."""
        ...

    def distributions(self, obs: np.ndarray) -> np.ndarray:
        """Its whole value distributions at ``(N, *obs)``, ``(N, A, K)``, for figures; K = 0 if it has none."""
        ...

    def player(self, rng: np.random.Generator) -> Policy:
        """The policy that is evaluated, drawing its randomness from `rng`."""
        ...


class Transfer(Stateful, Protocol):
    """How agents learn from each other."""

    lockstep: bool
    """True: `exchange` is collective, every rank must call it in the same round."""

    def exchange(self, agent: Agent, fresh: Features, episodes: Iterable[Episode] = ()) -> Lesson | None:
        """Phase 2: `fresh` is what the agent has met since the last call, `episodes` ended on the way."""
        ...


class Store(Protocol):
    """What a parameter server serves."""

    values: np.ndarray
    """A flat vector, float32."""

    def apply(self, kind: str, gradient: np.ndarray) -> None:
        """Change it by a gradient of this kind."""
        ...


class Stepper(Stateful, Protocol):
    """How a gradient becomes a change of weights: a local optimiser, or a push to a parameter server."""

    def step(self, loss: Any) -> float:
        """Follow the gradient of `loss` (a scalar tensor) once. Returns its global norm before clipping."""
        ...
