"""Joined steps against sums that are written out over recorded episodes, in the loops that hand steps out."""

from __future__ import annotations

from functools import partial
from itertools import islice

import gymnasium
import numpy as np
import pytest

from mpi_ltcr.archive import checkpoint
from mpi_ltcr.envs.lockstep import TeamGames, TeamLoop
from mpi_ltcr.envs.opponents import make_opponent
from mpi_ltcr.envs.space_battle_rules import Rules
from mpi_ltcr.interaction import EnvLoop
from mpi_ltcr.interfaces import Step, Transition
from mpi_ltcr.memory.n_step import NStep

GAMMA = 0.9


class Stroll(gymnasium.Env):
    """Episodes of 1 to 6 frames that end in turns by termination, truncation and both; each reward is a new number."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    clock = episodes = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episodes += 1
        self.length = 1 + int(self.np_random.integers(6))
        self.clock += 1
        return np.array([self.clock], np.float32), {}

    def step(self, action):
        self.clock += 1
        self.length -= 1
        kind = self.episodes % 3 if self.length == 0 else -1
        return np.array([self.clock], np.float32), 1.5**self.clock % 7, kind in (0, 2), kind in (1, 2), {}


class Recorder:
    """Acts at random and keeps everything."""

    def __init__(self, actions: int) -> None:
        self.rng, self.actions = np.random.default_rng(5), actions
        self.seen: list[Transition] = []

    def act(self, obs):
        return int(self.rng.integers(self.actions))

    def observe(self, transition):
        self.seen.append(transition)


def stroll(frames: int) -> list[Step]:
    loop = EnvLoop(env=Stroll(), seed_of=lambda episode: episode, discount=GAMMA)
    return list(islice(loop.steps(Recorder(2)), frames))


def episodes_of(steps: list[Step]) -> list[list[Transition]]:
    """Cut where the loop says that an episode ended, not where the transition says so."""
    cut: list[list[Transition]] = [[]]
    for step in steps:
        cut[-1].append(step.transition)
        if step.ended:
            cut.append([])
    return cut


def by_definition(episode: list[Transition], n: int) -> list[tuple]:
    """For each step t of a whole episode: sum of discounted rewards up to min(t + n, T), and what is left then."""
    rows = []
    for t in range(len(episode)):
        last = min(t + n, len(episode)) - 1
        reward = sum(GAMMA ** (i - t) * episode[i].reward for i in range(t, last + 1))
        discount = 0.0 if episode[last].discount == 0 else GAMMA ** (last + 1 - t)
        rows.append((*episode[t].obs, episode[t].action, reward, discount, *episode[last].next_obs))
    return rows


def rows_of(transitions: list[Transition]) -> list[tuple]:
    return [(*t.obs, t.action, t.reward, t.discount, *t.next_obs) for t in transitions]


def pushed(n: int, transitions: list[Transition]) -> list[Transition]:
    joiner = NStep(steps=n)
    return [joined for t in transitions for joined in joiner.push(t)]


@pytest.mark.parametrize("n", [1, 2, 3, 5, 9])
def test_every_step_of_every_episode_comes_out_once_with_the_sum_of_its_definition(n):
    *whole, running = episodes_of(stroll(400))
    assert {e[-1].discount for e in whole} == {0.0, GAMMA}  # terminated ones and truncated ones
    assert {len(e) for e in whole} == {1, 2, 3, 4, 5, 6}
    expected = [row for episode in whole for row in by_definition(episode, n)]
    complete = by_definition(running, n)[: max(0, len(running) - n + 1)]
    found = rows_of(pushed(n, [t for e in [*whole, running] for t in e]))
    assert len(found) == len(expected + complete)
    np.testing.assert_allclose(found, expected + complete, rtol=1e-12)


def test_a_step_comes_out_as_soon_as_its_followers_are_there_and_the_tails_at_the_end():
    joiner = NStep(steps=3)
    episode = [Transition(np.zeros(1), 0, 1.0, GAMMA, np.zeros(1), over=k == 4) for k in range(5)]
    assert [len(joiner.push(t)) for t in episode] == [0, 0, 1, 1, 3]


def test_a_truncated_tail_bootstraps_and_a_terminated_one_does_not():
    for last, left in ((GAMMA, [GAMMA**2, GAMMA]), (0.0, [0.0, 0.0])):
        steps = [Transition(np.zeros(1), 0, 1.0, GAMMA, np.zeros(1)), Transition(np.ones(1), 0, 1.0, last, 2, True)]
        assert [t.discount for t in pushed(3, steps)] == pytest.approx(left)


@pytest.mark.parametrize("n", [2, 4])
def test_games_side_by_side_do_not_mix_and_a_ship_that_dies_first_loses_nothing(n):
    rules = Rules(team_size=2, health=10)
    games = TeamGames(
        rules=rules,
        ship=0,
        opponents=[make_opponent("scripted", rules=rules) for _ in range(3)],
        rng_of=lambda game, episode: np.random.default_rng([game, episode]),
        exchange=lambda mine: np.stack([mine, mine]),
    )
    recorder = Recorder(4)
    steps = list(islice(TeamLoop(games=games, discount=GAMMA, reward_scale=0.2).steps(recorder), 3 * 400))
    expected, running = [], 0
    for game in range(3):
        episode: list[Transition] = []
        for step in steps[game::3]:
            if step.transition is not None:
                assert step.transition.game == game
                episode.append(step.transition)
            if step.ended:
                expected += by_definition(episode, n)
                episode = []
        running += len(episode)
        dead = bool(episode) and episode[-1].discount == 0
        expected += by_definition(episode, n)[: len(episode) if dead else max(0, len(episode) - n + 1)]
    assert any(step.transition is None for step in steps)  # a ship did wait for its teammate
    assert sum(step.ended is not None for step in steps) > 6
    found = rows_of(pushed(n, recorder.seen))
    assert len(recorder.seen) - running <= len(found) == len(expected)
    np.testing.assert_allclose(sorted(found), sorted(expected), rtol=1e-6)


@pytest.mark.parametrize("cut", [0, 1, 3, 38, 77])
def test_a_joiner_that_was_saved_and_loaded_goes_on_like_the_first(cut, tmp_path):
    transitions = [s.transition._replace(game=k % 2) for k, s in enumerate(stroll(120))]
    first, second = NStep(steps=4), NStep(steps=4)
    for t in transitions[:cut]:
        first.push(t)
    second.push(transitions[99])  # it has a past of its own
    checkpoint.write_file(tmp_path, "rank0000.h5", first.state())
    second.load_state(checkpoint.load_file(tmp_path / "rank0000.h5"))
    go_on = partial(map, rows_of)
    one = list(go_on(first.push(t) for t in transitions[cut:]))
    two = list(go_on(second.push(t) for t in transitions[cut:]))
    assert one == two
    assert any(one)
