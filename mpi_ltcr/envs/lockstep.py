"""Space Battle with one process per teammate: replicas of one deterministic world that exchange only actions.

Every teammate holds the same world, the same opponents and the same generators. Each step each of them contributes the
actions of its own ship; `exchange` brings them together (an Allgather between ranks, a plain list in a test). Several
games run side by side, so that one exchange serves them all. Nothing here knows of MPI.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from mpi_ltcr.envs.opponents import Opponent, Snapshots
from mpi_ltcr.envs.space_battle_match import episode_of
from mpi_ltcr.envs.space_battle_rules import Rules
from mpi_ltcr.envs.space_battle_world import World
from mpi_ltcr.interfaces import Actor, Episode, Policy, State, Step, Transition

Exchange = Callable[[np.ndarray], np.ndarray]
"""One array (k,) int64 of mine -> everyone's (n, k), in the order of the ships. Collective."""

CHECK_EVERY = 200
"""Steps between two comparisons of the replicas."""


class DivergenceError(RuntimeError):
    """Replicas of one world differ; the text names the teammates."""


class TeamGames:
    """`games` games of one team, each begun anew when it is over.

    Args:
        ship: number of this process's ship in team 0.
        opponents: one for each game; they hold generators of their own.
        rng_of: (game, number of the episode) -> a fresh generator, the same on all teammates.
        piloted: each teammate steers the enemy of its own number as well, with the policy that its `opponents` have for
            that one ship: nobody needs the others' weights, and the replicas cannot disagree on what was played.
    """

    def __init__(
        self,
        *,
        rules: Rules,
        ship: int,
        opponents: list[Opponent],
        rng_of: Callable[[int, int], np.random.Generator],
        exchange: Exchange,
        piloted: bool = False,
    ) -> None:
        self.rules, self.ship, self.opponents, self.piloted = rules, ship, opponents, piloted
        self.rng_of, self.exchange = rng_of, exchange
        self.games = len(opponents)
        self.episodes = [-1] * self.games
        self.steps = 0
        self.world = World(rules=rules, rngs=[rng_of(game, 0) for game in range(self.games)])
        for game in range(self.games):
            self._begin(game)
        self.seen = self.world.observe()

    def _begin(self, game: int) -> None:
        self.episodes[game] += 1
        rng = self.rng_of(game, self.episodes[game])
        self.world.reset([game], rngs=[rng])
        self.opponents[game].reset(np.random.default_rng(int(rng.integers(2**63))))

    def alive(self, game: int) -> bool:
        """Whether this process's ship lives in that game."""
        return bool(self.world.alive[game, self.ship])

    def play(self, choose: Callable[[np.ndarray], int]) -> Iterator[Step]:
        """Collective. One step of all games; for each game what it brought this process's ship.

        A dead ship idles: its step has no transition, and its teammates play on.
        """
        before = self.seen
        lived = [self.alive(game) for game in range(self.games)]
        mine = np.array([choose(before[g, self.ship]) if lived[g] else 0 for g in range(self.games)], np.int64)
        outcome = self.world.step(self._everyone(mine))
        after = self.world.observe()
        for game in range(self.games):
            transition, over = None, bool(outcome.over[game])
            if lived[game]:
                reward = float(outcome.team_reward[game, 0])
                discount = 0.0 if outcome.terminated[game, self.ship] else 1.0
                obs, next_obs = before[game, self.ship].copy(), after[game, self.ship].copy()
                transition = Transition(obs, int(mine[game]), reward, discount, next_obs, over, game)
            yield Step(transition, episode_of(self.world, game, self.ship) if over else None)
        self._renew(outcome.over, after)

    def _everyone(self, mine: np.ndarray) -> np.ndarray:
        """Collective. The actions (games, S) of all ships, from those of this process's ship, (games,)."""
        n, seen = self.rules.team_size, self.seen
        actions = np.empty((self.games, self.rules.ships), np.int64)
        if self.piloted:
            enemy = n + self.ship
            theirs = [opponent.act(seen[game, enemy : enemy + 1])[0] for game, opponent in enumerate(self.opponents)]
            both = self.exchange(np.concatenate([mine, np.array(theirs, np.int64)]))
            actions[:, :n], actions[:, n:] = both[:, : self.games].T, both[:, self.games :].T
            return actions
        actions[:, :n] = self.exchange(mine).T
        for game, opponent in enumerate(self.opponents):
            actions[game, n:] = opponent.act(seen[game, n:])
        return actions

    def _renew(self, over: np.ndarray, after: np.ndarray) -> None:
        for game in np.flatnonzero(over):
            self._begin(int(game))
        self.seen = self.world.observe() if over.any() else after
        self.steps += 1
        if self.steps % CHECK_EVERY == 0:
            self._compare()

    def _compare(self) -> None:
        """Collective. Raise DivergenceError unless all teammates hold the same world."""
        digests = self.exchange(np.array([self.world.digest() >> 1], np.int64))[:, 0]
        for other, digest in enumerate(digests):
            if digest != digests[0]:
                raise DivergenceError(
                    f"the world of agent {other} differs from that of agent 0 after {self.steps} steps; "
                    "start all ranks with the same program, libraries and configuration"
                )

    def state(self) -> State:
        return {
            "world": self.world.state(),
            "steps": self.steps,
            "episodes": np.array(self.episodes, np.int64),
            "opponents": {str(i): opponent.state() for i, opponent in enumerate(self.opponents)},
        }

    def load_state(self, state: State) -> None:
        self.world.load_state(state["world"])
        self.steps, self.episodes = state["steps"], state["episodes"].tolist()
        for i, opponent in enumerate(self.opponents):
            opponent.load_state(state["opponents"][str(i)])
        self.seen = self.world.observe()


class TeamLoop:
    """The environment loop of a teammate: `interaction.EnvLoop`'s twin for games that are shared.

    Args:
        games: played in lockstep with the teammates.
        discount: gamma, the discount of a step that is no termination.
        reward_scale: what the learner sees is reward * reward_scale,
        reward_clip: cut to [-reward_clip, reward_clip]; 0: never cut.
        snapshots: whom the games' opponents play, where those are past selves or a frozen team; saved with the loop.
    """

    def __init__(
        self,
        *,
        games: TeamGames,
        discount: float,
        reward_scale: float,
        reward_clip: float = 0.0,
        snapshots: Snapshots | None = None,
    ) -> None:
        self.games, self.discount, self.reward_scale = games, float(discount), float(reward_scale)
        self.reward_clip = float(reward_clip) or math.inf
        self.snapshots = snapshots
        self.frames = 0

    def steps(self, agent: Actor) -> Iterator[Step]:
        """Collective. Let `agent` act and observe for ever, one item for each game's step. Cut with ``islice`` at
        multiples of the number of games."""
        while True:
            steps = [self._scaled(step) for step in self.games.play(agent.act)]
            for step in steps:
                if step.transition is not None:
                    agent.observe(step.transition)
            self.frames += len(steps)
            if self.snapshots is not None:
                self.snapshots.look(self.frames)
            yield from steps

    def _scaled(self, step: Step) -> Step:
        t = step.transition
        if t is None:
            return step
        seen = min(max(t.reward * self.reward_scale, -self.reward_clip), self.reward_clip)
        return step._replace(transition=t._replace(reward=seen, discount=t.discount * self.discount))

    def state(self) -> State:
        snapshots = {} if self.snapshots is None else {"snapshots": self.snapshots.state()}
        return {"frames": self.frames, "games": self.games.state(), **snapshots}

    def load_state(self, state: State) -> None:
        self.frames = state["frames"]
        if self.snapshots is not None:
            self.snapshots.load_state(state["snapshots"])
        self.games.load_state(state["games"])


def play_episode(games: TeamGames, policy: Policy) -> Episode:
    """Collective. One evaluation game of the whole team; every teammate passes its own policy."""
    while True:
        for step in games.play(policy):
            if step.ended:
                return step.ended
