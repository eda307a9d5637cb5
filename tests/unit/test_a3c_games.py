"""A worker of cA3C that plays several games: it is as many workers with the same weights, its gradient their sum."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import pytest
import torch
from a3c_naive import (
    ACTIONS,
    HIDDEN,
    OBS,
    Naive,
    alone,
    build,
    finite_differences,
    loss_of,
    path_loop,
    places,
    rollout_of,
    value_at_end,
)
from ca3c_helpers import POLE, certificate, config_of, differences

from mpi_ltcr import assembly_ca3c as assembly
from mpi_ltcr.agents.a3c import A3CAgent
from mpi_ltcr.agents.a3c_fused import FusedA3CAgent
from mpi_ltcr.interaction import explore_rollout
from mpi_ltcr.interfaces import Rollout
from mpi_ltcr.seeds import SeedTree

torch.set_num_threads(1)

each_kind = pytest.mark.parametrize("kind", [A3CAgent, FusedA3CAgent], ids=["eager", "fused"])


def rollout_of_games(agent: A3CAgent, lengths: list[int], bootstrap: list[float]) -> Rollout:
    """Experience out of nowhere, of unlike games."""
    parts = [rollout_of(agent, length, after) for length, after in zip(lengths, bootstrap, strict=True)]
    start = tuple(torch.cat([part.start[i] for part in parts]) for i in range(2))
    obs, actions, rewards = (np.concatenate(column) for column in list(zip(*parts, strict=True))[:3])
    return Rollout(obs, actions, rewards, tuple(lengths), start, tuple(bootstrap), (False,) * len(lengths))


# Who plays, who waits


def test_a_game_whose_episode_has_ended_waits_until_the_others_have_played_their_steps():
    agent, _ = build(games=3)
    games = [path_loop([6, 2, 9], game) for game in range(3)]  # of episodes of 6, 2, 9, ...; 2, 9, 6, ...; 9, 6, 2, ...
    rollouts, ended = [], []
    for _ in range(3):
        rollout, episodes = explore_rollout(games, agent, 4)
        rollouts.append(rollout)
        ended.append([episode.length for episode in episodes])
    assert [[places(part) for part in alone(rollout)] for rollout in rollouts] == [
        [[(0, t) for t in range(4)], [(1, 0), (1, 1)], [(2, t) for t in range(4)]],
        [[(0, 4), (0, 5)], [(2, t) for t in range(4)], [(2, t) for t in range(4, 8)]],
        [[(1, 0), (1, 1)], [(2, t) for t in range(4, 8)], [(2, 8)]],
    ]
    assert ended == [[2], [6], [9, 2]]  # in the order of time, then of games
    assert [rollout.lengths for rollout in rollouts] == [(4, 2, 4), (2, 4, 4), (2, 4, 1)]
    assert [rollout.first for rollout in rollouts] == [(True,) * 3, (False, True, False), (True, False, False)]
    assert agent.frames == 27


def test_a_rollout_is_closed_as_soon_as_all_of_its_episodes_have_ended():
    agent, _ = build(games=2)
    games = [path_loop([3, 2], game) for game in range(2)]
    rollout, episodes = explore_rollout(games, agent, 50)
    assert [episode.length for episode in episodes] == [2, 3]
    assert rollout.lengths == (3, 2)
    assert rollout.bootstrap == (0.0, 0.0)
    assert explore_rollout(games, agent, 50)[0].first == (True, True)


def test_truncated_and_unfinished_games_bootstrap_their_own_values_and_terminated_ones_nothing():
    agent, _ = build(games=3)
    games = [path_loop([3], 0, truncated=True), path_loop([2], 1), path_loop([9], 2)]
    rollout, _ = explore_rollout(games, agent, 4)
    cut, over, running = alone(rollout)
    for part, at in ((cut, (0, 3)), (running, (2, 4))):
        final = np.array([*at, math.sin(at[1]), 1], np.float32)
        assert part.bootstrap[0] == pytest.approx(value_at_end(agent, part, final), rel=1e-4)
        assert part.bootstrap[0] != 0
    assert over.bootstrap == (0.0,)


# As many workers


@each_kind
@pytest.mark.parametrize("truncated", [False, True])
def test_several_games_are_as_many_workers_and_their_gradient_is_the_sum_over_them(kind, truncated):
    """In float64, over a dozen rollouts, with weights that change after each."""
    together, staged = build(double=True, games=3, kind=kind)
    workers = [build(double=True, kind=kind, seed=8 + game) for game in range(3)]
    games = [path_loop([6, 2, 9], game, truncated) for game in range(3)]
    own = [path_loop([6, 2, 9], game, truncated) for game in range(3)]
    weights, uneven = together.flat.values.numpy().copy(), 0
    for _ in range(12):
        for agent in (together, *(agent for agent, _ in workers)):
            agent.load_weights(weights)
        rollout, _ = explore_rollout(games, together, 4)
        together.learn(rollout)
        total: Any = 0
        for (agent, sent), loop, mine in zip(workers, own, alone(rollout), strict=True):
            single, _ = explore_rollout([loop], agent, 4)
            for name in ("obs", "actions", "rewards"):
                assert getattr(mine, name).tobytes() == getattr(single, name).tobytes()
            assert (mine.lengths, mine.first) == (single.lengths, single.first)
            assert mine.bootstrap == pytest.approx(single.bootstrap, rel=1e-9)
            for one, two in zip(mine.start, single.start, strict=True):
                np.testing.assert_allclose(one, two, atol=1e-12)
            agent.learn(single)
            total = total + sent[-1][1]
        ((_, gradient),) = staged[-1:]
        np.testing.assert_allclose(gradient, total, rtol=0, atol=1e-10 * np.abs(total).max())
        weights -= 0.01 * gradient
        uneven += len(set(rollout.lengths)) > 1
    assert uneven > 3


@each_kind
def test_the_gradient_of_games_of_unequal_length_is_that_of_algorithm_1_by_finite_differences(kind):
    agent, staged = build(double=True, games=3, kind=kind)
    rollout = rollout_of_games(agent, [2, 6, 1], [0.0, 0.75, -0.5])
    at = agent.flat.values.numpy().copy()
    losses = [loss_of(agent, part, at) for part in alone(rollout)]
    expected = finite_differences(lambda values: sum(loss(values) for loss in losses), at)
    told = agent.learn(rollout)
    np.testing.assert_allclose(staged[0][1], expected, atol=1e-7 * np.abs(expected).max(), rtol=1e-5)
    assert told["rl_grad_norm"] == pytest.approx(np.linalg.norm(expected), rel=1e-6)
    policies = [pi for part in alone(rollout) for pi in Naive(agent, at).outputs(part)[0]]
    assert told["entropy"] == pytest.approx(np.mean([-(pi * np.log(pi)).sum() for pi in policies]), rel=1e-5)


@each_kind
@pytest.mark.parametrize("layer", ["distill", "policy"])
def test_distillation_is_the_mean_over_the_steps_of_all_games(layer, kind):
    """Of a game with more steps there is more in it."""
    agent, staged = build(double=True, games=3, kind=kind)
    rollout = rollout_of_games(agent, [2, 6, 1], [0.0, 0.75, -0.5])
    aligned = torch.from_numpy(np.random.default_rng(4).normal(size=(9, ACTIONS)))
    told = agent.mimic(rollout, aligned, 2.0, layer)
    single, sent = build(double=True, kind=kind)
    losses = [
        single.mimic(part, rows, 2.0, layer)["distill_loss"]
        for part, rows in zip(alone(rollout), aligned.split(rollout.lengths), strict=True)
    ]
    weights = np.array(rollout.lengths) / 9
    assert told["distill_loss"] == pytest.approx(weights @ losses, rel=1e-9)
    expected = sum(weight * gradient for weight, (_, gradient) in zip(weights, sent, strict=True))
    np.testing.assert_allclose(staged[0][1], expected, rtol=0, atol=1e-10 * np.abs(expected).max())


# Teachers


@pytest.mark.parametrize("state", ["own", "student"])
def test_a_teacher_walks_along_each_game_as_if_it_had_only_that_one(state, tmp_path):
    run = certificate(tmp_path / "teacher")
    task = {**POLE, "teachers": [{"task": "pole", "checkpoint": str(run), "state": state}]}
    several = config_of(tmp_path / "several", tasks=[{**task, "env": {**POLE["env"], "copies": 3}}])
    single = config_of(tmp_path / "single", tasks=[task])

    def worker_of(config: Any) -> assembly.Worker:
        teachings = [assembly.load_teaching(config, config.tasks[0], config.tasks[0].teachers[0])]
        worker = assembly.build_worker(config, config.tasks[0], 0, teachings, [None], lambda *_: None, lambda: None)
        worker.load_values(assembly.build_store(config, 0, teachings).values)
        return worker

    together, lone = worker_of(several), [worker_of(single).transfers[0] for _ in range(3)]
    uneven = 0
    for _ in range(12):
        rollout, _ = explore_rollout(together.games, together.agent, together.rollout_length)
        heard = together.transfers[0].logits(rollout)
        expected = torch.cat([own.logits(part) for own, part in zip(lone, alone(rollout), strict=True)])
        torch.testing.assert_close(heard, expected, rtol=0, atol=2e-6)
        uneven += len(set(rollout.lengths)) > 1
    assert uneven > 3
    assert heard.abs().max() > 0.1


# Seeds, and what is saved


def worker_of_games(tmp_path: Any, copies: int, number: int = 0) -> assembly.Worker:
    config = config_of(tmp_path / f"of{copies}", tasks=[{**POLE, "env": {**POLE["env"], "copies": copies}}])
    worker = assembly.build_worker(config, config.tasks[0], number, [], [], lambda *_: None, lambda: None)
    worker.load_values(assembly.build_store(config, 0, []).values)
    return worker


def test_each_game_has_a_branch_of_the_seed_tree_and_the_first_one_that_of_a_worker_of_one_game(tmp_path):
    workers = [worker_of_games(tmp_path, copies, number) for copies, number in ((1, 0), (4, 0), (4, 1))]
    seeds = [[[game.seed_of(episode) for episode in range(30)] for game in worker.games] for worker in workers]
    assert seeds[0][0] == seeds[1][0] == [SeedTree(1).integer(0, "env", episode) for episode in range(30)]
    drawn = [seed for worker in seeds[1:] for game in worker for seed in game]
    assert len(set(drawn)) == 2 * 4 * 30
    uniforms = [[rng.random() for rng in worker.agent.explore_rngs] for worker in workers]
    assert uniforms[0][0] == uniforms[1][0] == SeedTree(1).generator(0, "explore").random()
    assert len({*uniforms[1], *uniforms[2]}) == 8


@pytest.mark.parametrize("copies", [1, 2])
def test_a_state_of_a_worker_of_other_games_is_refused(copies, tmp_path):
    state = worker_of_games(tmp_path, 3).agent.state()
    agent = worker_of_games(tmp_path, copies).agent
    before = agent.state()
    with pytest.raises(ValueError, match=f"3 games were saved, this worker plays {copies}"):
        agent.load_state(state)
    assert differences(agent.state(), before) == []


def test_playing_for_evaluation_needs_no_game_of_ones_own(tmp_path):
    agent, _ = build(games=0)
    play = functools.partial(agent.player, np.random.default_rng(9))
    path = np.random.default_rng(5).normal(size=(12, OBS)).astype(np.float32)
    one, (other, _) = play(), build()
    two = other.player(np.random.default_rng(9))
    assert [one(obs) for obs in path] == [two(obs) for obs in path]
    assert agent.state()["h"].shape == (0, HIDDEN)
