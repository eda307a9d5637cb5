"""Zaxxon and Phoenix as they are trained on: lives, and an emulator that comes back by its seed and its actions."""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np
import pytest

from mpi_ltcr import envs
from mpi_ltcr.interaction import EnvLoop, evaluate
from mpi_ltcr.interfaces import Step, Transition
from mpi_ltcr.seeds import SeedTree

KWARGS: dict[str, Any] = {"preprocessing": "dqn", "episodic_life": True}


class Gambler:
    """Acts at random."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def act(self, obs: np.ndarray) -> int:
        return int(self.rng.integers(18))

    def observe(self, transition: Transition) -> None:
        pass


def loop(game: str, **kwargs: Any) -> EnvLoop:
    seeds = SeedTree(3)
    env = envs.make("mpi_ltcr/Atari-v0", {"game": game, **KWARGS, **kwargs})
    return EnvLoop(env=env, seed_of=lambda n: seeds.integer(0, "env", n), discount=0.99, reward_clip=1.0)


def play(made: EnvLoop, frames: int, agent: Gambler) -> list[Step]:
    return list(islice(made.steps(agent), frames))


def same(one: list[Step], two: list[Step]) -> bool:
    def alike(a: Step, b: Step) -> bool:
        assert a.transition is not None
        assert b.transition is not None
        return a.ended == b.ended and all(np.array_equal(x, y) for x, y in zip(a.transition, b.transition, strict=True))

    return len(one) == len(two) and all(alike(a, b) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("sticky", [0.0, 0.25])
@pytest.mark.parametrize("game", ["Zaxxon", "Phoenix"])
def test_a_game_restored_in_its_midst_goes_on_pixel_for_pixel(game: str, sticky: float) -> None:
    """In the second episode, so that the first one's no-ops, skips and frames must not matter; to the third one."""
    first, agent = loop(game, sticky=sticky, max_steps=150), Gambler(1)
    play(first, 230, agent)
    assert (first.episode, len(first.actions)) == (1, 80)
    second = loop(game, sticky=sticky, max_steps=150)
    play(second, 40, Gambler(9))  # it has a past of its own
    second.load_state(first.state())
    np.testing.assert_array_equal(first.obs, second.obs)
    twin = Gambler(0)
    twin.rng.bit_generator.state = agent.rng.bit_generator.state
    one, two = play(first, 120, agent), play(second, 120, twin)
    assert sum(step.ended is not None for step in one) == 1
    assert same(one, two)


def test_the_second_episode_begins_with_other_no_ops_than_the_first() -> None:
    """Otherwise the test above would show less than it says."""
    made = loop("Phoenix", max_steps=5)
    begun = set()
    for _ in range(6):
        _, info = made.env.reset(seed=made.seed_of(made.episode))
        begun.add(info["episode_frame_number"])
        play(made, 5, Gambler(1))
    assert len(begun) > 2


def test_a_whole_game_of_phoenix_is_a_sum_of_lives_and_each_of_them_ends_a_value() -> None:
    made = loop("Phoenix")
    steps = []
    for step in made.steps(Gambler(5)):
        steps.append(step)
        if step.ended:
            break
    ended = steps[-1].ended
    assert ended is not None
    assert not ended.truncated
    assert len(ended.lives) == made.env.reset(seed=1)[1]["lives"] > 3
    assert sum(life.value for life in ended.lives) == ended.value > 0
    assert sum(life.length for life in ended.lives) == ended.length == len(steps)
    ends = np.cumsum([life.length for life in ended.lives]) - 1
    discounts = np.array([step.transition.discount for step in steps if step.transition])
    assert np.flatnonzero(discounts == 0).tolist() == ends.tolist()
    rewards = [step.transition.reward for step in steps if step.transition]
    assert set(rewards) == {0.0, 1.0}  # clipped; the score is raw
    actions = iter([int(step.transition.action) for step in steps if step.transition])
    again = evaluate(made.env, lambda obs: next(actions), made.seed_of(0))
    assert again == ended
