"""Who plays the ships that do not learn: the other team of Space Battle, and in the solo game one's own mates.

An opponent sees what its ships see and nothing else. It draws only from the generator that `reset` hands it, once an
episode; that generator is its own, and saved with it. It knows nothing of checkpoints: `frozen` and `selfplay` are
handed callables.

On the command line, as `env.kwargs.enemies`:

random         every action with equal chance                   stationary   a target that spins
scripted       aims, fires, comes closer
frozen:RUN     the team that was trained in the run directory RUN, as its newest whole checkpoint has it
selfplay       past selves of the own team, one of which is kept every 10 000 frames; selfplay:50000 every 50 000
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np

from mpi_ltcr.envs.space_battle_rules import ACTIONS, CCW, CW, FIRE, MOVE, OTHER_FEATURES, OWN_FEATURES, Rules
from mpi_ltcr.interfaces import Policy, State

Crew = Policy | Sequence[Policy]
"""One policy for every ship of the team, or one for each."""


class Opponent(Protocol):
    """Chooses the actions of n ships."""

    def reset(self, rng: np.random.Generator) -> None:
        """A new episode begins; draw from `rng` until the next one."""
        ...

    def act(self, observations: np.ndarray) -> np.ndarray:
        """Actions (n,) int64 for observations (n, D). The rows of dead ships are there too; their actions are not
        carried out."""
        ...

    def state(self) -> State: ...

    def load_state(self, state: State) -> None: ...


class _Base:
    """The generator that all of them are handed, and its saving."""

    needs_policies: ClassVar[bool] = False
    _rng: np.random.Generator | None = None

    def reset(self, rng: np.random.Generator) -> None:
        self._rng = rng

    def act(self, observations: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def state(self) -> State:
        return {"rng": None if self._rng is None else self._rng.bit_generator.state}

    def load_state(self, state: State) -> None:
        if state["rng"] is None:
            self._rng = None
            return
        # A generator of its own, never the one it holds: that may be shared with someone who restores it himself.
        self._rng = np.random.default_rng(0)
        self._rng.bit_generator.state = state["rng"]


class Random(_Base):
    """Every action with equal chance: reference.md 4.4's default."""

    def act(self, observations: np.ndarray) -> np.ndarray:
        if self._rng is None:
            raise RuntimeError("the random opponent was not given a generator: call reset(rng) first")
        return self._rng.integers(len(ACTIONS), size=len(observations))


class Stationary(_Base):
    """Stays where it is and does not shoot: a target. There is no action for doing nothing, so it spins."""

    def act(self, observations: np.ndarray) -> np.ndarray:
        return np.full(len(observations), CCW)


class Scripted(_Base):
    """Turns to the nearest living enemy, fires where that would hit it, and comes closer where it would not.

    It holds fire while a mate stands in the line. Works under both readings of relative theta: it takes bearings
    from the positions.

    Args:
        rules: the game's constants; the defaults if None.
    """

    def __init__(self, *, rules: Rules | None = None) -> None:
        self._rules = rules or Rules()

    def act(self, observations: np.ndarray) -> np.ndarray:
        rules, mates = self._rules, self._rules.team_size - 1
        seen = np.asarray(observations, dtype=np.float64)
        if seen.shape[1:] != (rules.observation_size,):
            wanted = f"{rules.observation_size} numbers for teams of {rules.team_size}"
            raise ValueError(f"the scripted opponent reads {wanted}, got shape {seen.shape}: give it the game's rules")
        others = seen[:, OWN_FEATURES:].reshape(-1, rules.ships - 1, OTHER_FEATURES)  # mates first, then enemies
        alive = others[..., 3] > 0.0
        ahead, aside = self._from_the_bow(seen, others)
        # A flight begins at the muzzle: what is struck first is nearest to there, not to the ship's centre.
        reach = np.hypot(ahead - rules.hit_distance, aside)
        in_line = alive & (np.hypot(np.minimum(ahead - rules.hit_distance, 0.0), aside) < rules.hit_distance)

        row = np.arange(len(seen))
        target = mates + np.where(alive, np.hypot(ahead, aside), np.inf)[:, mates:].argmin(axis=1)
        off = np.arctan2(aside, ahead)[row, target]
        blocked = (in_line & (reach < reach[row, target][:, None]))[:, :mates].any(axis=1)
        fire = in_line[row, target] & ~blocked & (seen[:, 3] > 0.0)
        turn = np.abs(off) > np.pi / rules.headings + 1e-6
        # A move that the wall refuses is a way to wait; nobody can be out of reach behind a wall.
        action: np.ndarray = np.where(fire, FIRE, np.where(turn, np.where(off > 0.0, CCW, CW), MOVE))
        return action

    def _from_the_bow(self, seen: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Each other ship as seen along the heading: how far ahead, how far to the left. (n, 2 team_size - 1) each."""
        apart = (others[..., :2] - seen[:, None, :2]) * self._rules.arena
        course = 2 * np.pi * seen[:, 2, None]
        cos, sin = np.cos(course), np.sin(course)
        return apart[..., 0] * cos + apart[..., 1] * sin, apart[..., 1] * cos - apart[..., 0] * sin


class Frozen(_Base):
    """Plays a policy that no longer learns.

    Args:
        policies: one for every ship of the team, or one for each.
    """

    needs_policies = True

    def __init__(self, *, policies: Crew) -> None:
        self._crew = policies
        if not callable(policies) and not policies:
            raise ValueError("the frozen opponent needs a policy, got none")

    def act(self, observations: np.ndarray) -> np.ndarray:
        return _play(self._crew, observations)


class Snapshots(Sequence[Policy]):
    """Past selves of a learner, oldest first: what `selfplay` draws from, shared by all games of a process.

    Only weights are kept; a policy is made of them when one is asked for. None is ever dropped, so that a game goes on
    with whom it began.

    Args:
        take: the learner's weights as they are now, (P,).
        revive: weights (P,) -> the policy that plays them, a function of its observation alone.
        every: frames between two of them, the first at frame 0; 0: only that one.
    """

    def __init__(self, *, take: Callable[[], np.ndarray], revive: Callable[[np.ndarray], Policy], every: int) -> None:
        self._take, self._revive, self._every = take, revive, every
        self._weights = [take()]

    def look(self, frames: int) -> None:
        """Take one, if it is time to. Call it at every frame but the first."""
        if self._every and frames % self._every == 0:
            self._weights.append(self._take())

    def __len__(self) -> int:
        return len(self._weights)

    def __getitem__(self, index: Any) -> Any:
        return self._revive(self._weights[index])

    def state(self) -> State:
        """All of them, (count, P)."""
        return {"weights": np.stack(self._weights)}

    def load_state(self, state: State) -> None:
        """Go on from there. Raises ValueError for weights of another number than the learner has."""
        saved = np.asarray(state["weights"])
        if saved.ndim != 2 or not len(saved) or saved.shape[1:] != self._weights[0].shape:
            raise ValueError(f"snapshots of shape {saved.shape} were saved, here they have {self._weights[0].shape}")
        self._weights = list(saved)


class SelfPlay(_Base):
    """Plays a past snapshot of the learners, drawn anew for each episode.

    The snapshots themselves are kept by whoever took them; saved here is only which one plays.

    Args:
        policies: the snapshots, oldest first. More may join: from the next episode on they can be drawn too.
    """

    needs_policies = True

    def __init__(self, *, policies: Sequence[Crew]) -> None:
        if callable(policies) or not policies:
            raise ValueError("the selfplay opponent needs a list of at least one snapshot")
        self._snapshots = policies
        self._choose(len(policies) - 1)

    def _choose(self, index: int) -> None:
        self.playing, self._crew = index, self._snapshots[index]

    def reset(self, rng: np.random.Generator) -> None:
        super().reset(rng)
        self._choose(int(rng.integers(len(self._snapshots))))

    def act(self, observations: np.ndarray) -> np.ndarray:
        return _play(self._crew, observations)

    def state(self) -> State:
        return {**super().state(), "playing": self.playing}

    def load_state(self, state: State) -> None:
        playing = int(state["playing"])
        if not 0 <= playing < len(self._snapshots):
            raise ValueError(f"snapshot {playing} was playing when this was saved, here are {len(self._snapshots)}")
        super().load_state(state)
        self._choose(playing)


OPPONENTS: dict[str, type[_Base]] = {
    "random": Random,
    "scripted": Scripted,
    "stationary": Stationary,
    "frozen": Frozen,
    "selfplay": SelfPlay,
}


SELFPLAY_EVERY = 10_000
"""Frames between two snapshots where `selfplay` does not say."""


def parse_opponent(text: str) -> tuple[str, str]:
    """Name and argument of an opponent that needs policies: "frozen:runs/a" -> ("frozen", "runs/a"); selfplay's
    argument is frames. Of any other text it is the name as it stands, known or not, and no argument.

    Raises ValueError for `frozen` without a run, and `selfplay` with something else than a number of frames.
    """
    name, _, argument = text.partition(":")
    if name == "frozen" and not argument:
        raise ValueError("frozen: name the run directory whose team plays, e.g. frozen:runs/a")
    if name == "selfplay":
        argument = argument if ":" in text else str(SELFPLAY_EVERY)
        if not (argument.isdecimal() and int(argument) > 0):
            raise ValueError(f"{text}: name the frames between two snapshots, e.g. selfplay:{SELFPLAY_EVERY}")
    return (name, argument) if name in ("frozen", "selfplay") else (text, "")


def make_opponent(name: str, *, rules: Rules | None = None, policies: Crew | Sequence[Crew] | None = None) -> Opponent:
    """The opponent of this name. ValueError for an unknown one, or for policies missing or not wanted.

    `policies` is one crew for `frozen`, a list of crews for `selfplay`; `rules` matter to `scripted` alone.
    """
    if name not in OPPONENTS:
        raise ValueError(f"unknown opponent {name!r}; there are {', '.join(OPPONENTS)}")
    kind = OPPONENTS[name]
    if kind.needs_policies != (policies is not None):
        raise ValueError(f"the {name} opponent {'needs policies' if kind.needs_policies else 'takes no policies'}")
    if kind is Scripted:
        return Scripted(rules=rules)
    if kind is Frozen:
        return Frozen(policies=policies)  # type: ignore[arg-type]
    if kind is SelfPlay:
        return SelfPlay(policies=policies)  # type: ignore[arg-type]
    return kind()


def _play(crew: Crew, observations: np.ndarray) -> np.ndarray:
    """The crew's actions (n,), each ship asked alone. ValueError where a crew of several is not one per ship."""
    ships = len(observations)
    policies: Sequence[Policy] = [crew] * ships if callable(crew) else crew
    if len(policies) != ships:
        raise ValueError(f"a crew of {len(policies)} policies cannot play {ships} ships: give one, or one for each")
    return np.array([int(policy(seen)) for policy, seen in zip(policies, observations, strict=True)], dtype=np.int64)
