"""One worker of cA3C: when its rollouts end, what its gradients are, and what they leave alone.

The gradient is compared with finite differences of Algorithm 1's loss, with a network written out in numpy.
"""

from __future__ import annotations

import math

import h5py
import numpy as np
import pytest
import torch
from a3c_naive import (
    ACTIONS,
    FRAMES,
    GAMMA,
    HIDDEN,
    OBS,
    SPEC,
    Naive,
    Path,
    advantages_and_returns,
    build,
    finite_differences,
    loss_of,
    path_loop,
    places,
    rollout_of,
    value_at_end,
)
from ca3c_helpers import differences, slices
from scipy import stats

from mpi_ltcr.agents.a3c import A3CAgent, draw
from mpi_ltcr.archive import checkpoint
from mpi_ltcr.archive.evidence import write_batch
from mpi_ltcr.interaction import EnvLoop, explore_rollout
from mpi_ltcr.interfaces import EnvSpec, NonFiniteError, Rollout
from mpi_ltcr.steppers import ParameterStore

torch.set_num_threads(1)


@pytest.mark.parametrize("bootstrap", [0.0, 0.75], ids=["a termination", "a value"])
def test_the_gradient_is_that_of_algorithm_1_by_finite_differences(bootstrap):
    agent, staged = build(double=True)
    rollout = rollout_of(agent, bootstrap=bootstrap)
    at = agent.flat.values.detach().numpy().copy()
    expected = finite_differences(loss_of(agent, rollout, at), at)

    told = agent.learn(rollout)
    ((kind, gradient),) = staged
    assert kind == "rl"
    np.testing.assert_allclose(gradient, expected, atol=1e-7 * np.abs(expected).max(), rtol=1e-5)
    assert told["rl_grad_norm"] == pytest.approx(np.linalg.norm(expected), rel=1e-6)
    distill = [part for name, part in slices(agent.net).items() if name.startswith("distill")]
    assert all((gradient[part] == 0).all() for part in distill)
    assert (agent.flat.values.detach().numpy() == at).all()  # it is pushed, not applied


def test_what_it_tells_of_a_rollout_is_the_mean_over_its_steps():
    agent, _ = build(double=True)
    rollout = rollout_of(agent)
    policies, values = Naive(agent, agent.flat.values.numpy()).outputs(rollout)
    advantages, returns = advantages_and_returns(rollout, values)
    told = agent.learn(rollout)
    surprise = [-math.log(pi[a]) * adv for pi, a, adv in zip(policies, rollout.actions, advantages, strict=True)]
    assert told["policy_loss"] == pytest.approx(np.mean(surprise), rel=1e-5)
    assert told["value_loss"] == pytest.approx(np.mean((np.array(returns) - values) ** 2), rel=1e-5)
    assert told["entropy"] == pytest.approx(np.mean([-(pi * np.log(pi)).sum() for pi in policies]), rel=1e-5)


def test_a_gradient_over_the_clip_is_shortened_and_keeps_its_direction():
    free, clipped = build(), build(grad_clip=0.5)
    for agent, _ in (free, clipped):
        agent.learn(rollout_of(agent))
    long, short = free[1][0][1], clipped[1][0][1]
    assert np.linalg.norm(long) > 1
    assert np.linalg.norm(short) == pytest.approx(0.5, rel=1e-5)
    np.testing.assert_allclose(short / 0.5, long / np.linalg.norm(long), atol=1e-6)


# Rollouts


def play(
    agent: A3CAgent, lengths: list[int], truncated: bool, count: int, t_max: int = 4
) -> tuple[list[Rollout], list[int], list[tuple[torch.Tensor, torch.Tensor]]]:
    """Rollouts of a path, the lengths of the episodes that ended, and the recurrent states before each rollout."""
    loop = EnvLoop(env=Path(lengths, truncated), seed_of=lambda episode: episode, discount=GAMMA)
    rollouts, ended, states = [], [], []
    for _ in range(count):
        states.append(agent.recurrent)
        rollout, episodes = explore_rollout([loop], agent, t_max)
        rollouts.append(rollout)
        ended += [episode.length for episode in episodes]
    return rollouts, ended, states


def test_a_rollout_ends_with_its_episode_or_after_t_max_steps():
    agent, _ = build()
    rollouts, ended, _ = play(agent, [6, 4, 1], truncated=False, count=5)
    assert [places(r) for r in rollouts] == [
        [(0, 0), (0, 1), (0, 2), (0, 3)],
        [(0, 4), (0, 5)],
        [(1, 0), (1, 1), (1, 2), (1, 3)],
        [(2, 0)],
        [(3, 0), (3, 1), (3, 2), (3, 3)],
    ]
    assert [r.first for r in rollouts] == [(True,), (False,), (True,), (True,), (True,)]
    assert ended == [6, 4, 1]
    assert [(r.rewards == r.actions + 1).all() for r in rollouts] == [True] * 5
    assert [r.rewards.dtype for r in rollouts] == [np.float32] * 5


def test_a_termination_is_worth_nothing_more_even_where_t_max_meets_it():
    agent, _ = build()
    rollouts, _, _ = play(agent, [6, 4], truncated=False, count=3)
    assert [r.bootstrap for r in rollouts[1:]] == [(0.0,), (0.0,)]
    (bootstrap,) = rollouts[0].bootstrap
    assert bootstrap == pytest.approx(value_at_end(agent, rollouts[0], np.array([0, 4, math.sin(4), 1])))
    assert bootstrap != 0


def test_a_truncation_bootstraps_the_value_of_the_final_observation_and_closes_the_rollout():
    agent, _ = build()
    rollouts, ended, states = play(agent, [6, 4], truncated=True, count=4)
    assert [len(r.actions) for r in rollouts] == [4, 2, 4, 4]
    assert ended == [6, 4]
    for rollout, final in ((rollouts[1], [0, 6, math.sin(6), 1]), (rollouts[2], [1, 4, math.sin(4), 1])):
        (bootstrap,) = rollout.bootstrap
        assert bootstrap == pytest.approx(value_at_end(agent, rollout, np.array(final, np.float32)), rel=1e-4)
        assert bootstrap != 0
    assert [bool((h == 0).all() and (c == 0).all()) for h, c in states] == [True, False, True, True]


def test_the_recurrent_state_runs_through_the_rollouts_of_an_episode_and_starts_anew_with_the_next():
    agent, _ = build()
    rollouts, _, states = play(agent, [10, 3], truncated=False, count=5)
    naive = Naive(agent, agent.flat.values.double().numpy())
    h = c = np.zeros(HIDDEN)
    for rollout, state in zip(rollouts, states, strict=True):
        if rollout.first[0]:
            h = c = np.zeros(HIDDEN)
        for mine, kept in ((rollout.start, state), ((h[None], c[None]), state)):
            np.testing.assert_allclose(np.stack([np.asarray(x) for x in mine]), np.stack(kept), atol=1e-6)
        for obs in rollout.obs:
            _, _, h, c = naive.step(obs.astype(np.float64), h, c)
    assert [r.first for r in rollouts] == [(True,), (False,), (False,), (True,), (True,)]


def test_a_rollout_seen_again_at_once_gives_the_policies_with_which_it_was_played():
    agent, _ = build()
    played: list[np.ndarray] = []
    step = agent.net.step
    agent.net.step = lambda obs, state: played.append(step(obs, state)[0].policy[0].numpy()) or step(obs, state)  # type: ignore[method-assign, func-returns-value]
    rollouts, _, _ = play(agent, [9], truncated=False, count=3)
    again = np.concatenate([agent.outputs(rollout).policy.detach().numpy() for rollout in rollouts])
    bootstraps = {4, 9}  # the network was also asked for V after the first two rollouts
    acted = np.stack([logits for i, logits in enumerate(played) if i not in bootstraps])
    np.testing.assert_allclose(again, acted, atol=1e-6)
    assert np.abs(again).max() > 0.1


# Actions


def test_actions_are_drawn_as_often_as_the_softmax_says():
    logits = np.array([1.0, -0.5, 3.0, 0.2], np.float32)
    rng = np.random.default_rng(0)
    counts = np.bincount([draw(logits, rng) for _ in range(40_000)], minlength=4)
    masses = [math.exp(x) for x in logits.tolist()]
    assert stats.chisquare(counts, [40_000 * m / sum(masses) for m in masses]).pvalue > 0.01


@pytest.mark.parametrize(
    ("logits", "possible"),
    [([1e4, 0, 0], {0}), ([0, -1e30, 0], {0, 2}), ([-1e4, -1e4, 0], {2}), ([5, -math.inf, 5], {0, 2}), ([3], {0})],
    ids=str,
)
def test_logits_of_any_size_are_drawn_from(logits, possible):
    rng = np.random.default_rng(1)
    assert {draw(np.array(logits, np.float32), rng) for _ in range(200)} == possible


def test_the_largest_uniform_number_still_draws_an_action():
    class Edge:
        def random(self) -> float:
            return math.nextafter(1, 0)

    logits = np.random.default_rng(2).normal(size=1000).astype(np.float32)
    assert draw(logits, Edge()) < 1000  # type: ignore[arg-type]


def test_playing_draws_from_the_given_generator_and_leaves_the_recurrent_state_of_training_alone():
    agent, _ = build()
    play(agent, [50], truncated=False, count=3)
    before = agent.state()
    path = np.random.default_rng(5).normal(size=(12, OBS)).astype(np.float32)
    one, two = (agent.player(np.random.default_rng(9)) for _ in range(2))
    first = [one(obs) for obs in path]
    assert [two(obs) for obs in path] == first  # the second begins with zeros again
    assert differences(agent.state(), before) == []

    naive, rng = Naive(agent, agent.flat.values.double().numpy()), np.random.default_rng(9)
    h = c = np.zeros(HIDDEN)
    for obs, action in zip(path, first, strict=True):
        logits, _, h, c = naive.step(obs.astype(np.float64), h, c)
        assert draw(logits, rng) == action
    assert len(set(first)) > 1


# What a gradient moves on the server


def store_of(agent: A3CAgent, extra: int = 0) -> ParameterStore:
    values = np.concatenate([agent.flat.values.detach().numpy(), np.linspace(-1, 1, extra, dtype=np.float32)])
    sizes = [len(agent.flat.values)] + ([extra] if extra else [])
    return ParameterStore(values=values, sizes=sizes, lr=1e-2, eps=1e-8)


def moved(agent: A3CAgent, spec: EnvSpec, layer: str) -> set[str]:
    """First names of the parameters that one distillation step on the server changes, after one of RL."""
    store = store_of(agent)
    rollout = rollout_of(agent, spec=spec)
    agent.learn(rollout)
    staged = agent.rl_stepper.flat.grads.numpy().copy()  # type: ignore[attr-defined]
    store.apply("rl", staged)  # its momentum must not move heads in the steps that follow
    agent.load_weights(store.values)
    before = store.values.copy()
    aligned = torch.from_numpy(np.random.default_rng(4).normal(size=(7, spec.num_actions)).astype(np.float32) * 3)
    agent.mimic(rollout, aligned, 1.0, layer)
    store.apply("distill", agent.flat.grads.numpy())
    changed = {name for name, part in slices(agent.net).items() if (store.values[part] != before[part]).any()}
    assert all(
        (store.values[part] != before[part]).mean() > 0.5 for name, part in slices(agent.net).items() if name in changed
    )
    return {name.split(".")[0] for name in changed}


@pytest.mark.parametrize("spec", [SPEC, FRAMES], ids=["an MLP", "convolutions"])
def test_a_distillation_step_leaves_policy_and_value_heads_bit_identical(spec):
    agent, _ = build(spec)
    assert moved(agent, spec, "distill") == {"torso", "lstm", "distill"}


def test_distillation_into_the_policy_layer_moves_the_policy_head_and_not_the_two_others():
    agent, _ = build()
    assert moved(agent, SPEC, "policy") == {"torso", "lstm", "policy"}


def test_the_distillation_loss_is_equation_3_averaged_over_the_rollout():
    agent, staged = build()
    rollout = rollout_of(agent)
    aligned = torch.from_numpy(np.random.default_rng(4).normal(size=(7, ACTIONS)).astype(np.float32))
    student = agent.outputs(rollout).distill.detach().double().numpy()
    told = agent.mimic(rollout, aligned, 2.0, "distill")
    total = 0.0
    for z, zb in zip(aligned.double().numpy(), student, strict=True):
        p, q = np.exp(z / 2), np.exp(zb)
        p, q = p / p.sum(), q / q.sum()
        total += sum(p[a] * math.log(p[a] / q[a]) for a in range(ACTIONS))
    assert told["distill_loss"] == pytest.approx(total / 7, rel=1e-4)
    assert [kind for kind, _ in staged] == ["distill"]
    assert told["distill_grad_norm"] == pytest.approx(np.linalg.norm(staged[0][1]), rel=1e-5)


def test_an_alignment_step_on_the_server_changes_only_its_alignment_network():
    agent, _ = build()
    store = store_of(agent, extra=40)
    before = store.values.copy()
    store.apply("align0", np.ones(40, np.float32))
    network = len(agent.flat.values)
    assert (store.values[:network] == before[:network]).all()
    assert (store.values[network:] != before[network:]).all()
    assert {kind: adam.state()["steps"] for kind, adam in store.adams.items()} == {"rl": 0, "distill": 0, "align0": 1}


def test_each_kind_of_gradient_has_an_adam_of_its_own():
    """By Kingma and Ba's recursion, in float64."""
    agent, _ = build()
    store, rng = store_of(agent), np.random.default_rng(0)
    values = store.values.astype(np.float64)
    moments = {kind: [0, np.zeros(len(values)), np.zeros(len(values))] for kind in ("rl", "distill")}
    for kind in ("rl", "distill", "rl", "rl", "distill"):
        gradient = rng.normal(size=len(values)).astype(np.float32)
        store.apply(kind, gradient)
        state = moments[kind]
        state[0] += 1
        state[1] = 0.9 * state[1] + 0.1 * gradient.astype(np.float64)
        state[2] = 0.999 * state[2] + 0.001 * gradient.astype(np.float64) ** 2
        mean, square = state[1] / (1 - 0.9 ** state[0]), state[2] / (1 - 0.999 ** state[0])
        values = values - 1e-2 * mean / (np.sqrt(square) + 1e-8)
    np.testing.assert_allclose(store.values, values, atol=1e-5)


def test_without_rl_nothing_is_staged_for_it_but_distillation_goes_on():
    agent, staged = build(rl=False)
    rollout = rollout_of(agent)
    assert agent.learn(rollout) == {}
    assert staged == []
    agent.mimic(rollout, torch.zeros(7, ACTIONS), 1.0, "policy")
    assert [kind for kind, _ in staged] == ["distill"]


# Saved states


@pytest.mark.parametrize("games", [1, 3])
def test_a_saved_and_loaded_agent_goes_on_as_if_nothing_had_been(games, tmp_path):
    """Through a file, in the middle of an episode, into an agent of other experience."""
    lengths = [9, 5]
    agent, _ = build(games=games)
    loops = [path_loop(lengths, game) for game in range(games)]
    for _ in range(2):
        explore_rollout(loops, agent, 4)
    states = {str(game): loop.state() for game, loop in enumerate(loops)}
    checkpoint.write_file(tmp_path, "rank0000.h5", {"agent": agent.state(), "games": states})

    other, _ = build(games=games)
    explore_rollout([path_loop([3], game) for game in range(games)], other, 5)
    saved = checkpoint.load_file(tmp_path / "rank0000.h5")
    other.load_state(saved["agent"])
    other.load_weights(agent.flat.values.numpy())
    resumed = [path_loop(lengths, game) for game in range(games)]
    for game, again in enumerate(resumed):
        again.load_state(saved["games"][str(game)])
    assert not saved["agent"]["first"][0]

    for _ in range(6):
        one, ended = explore_rollout(loops, agent, 4)
        two, ended_too = explore_rollout(resumed, other, 4)
        for name in ("obs", "actions", "rewards"):
            assert getattr(one, name).tobytes() == getattr(two, name).tobytes()
        assert [part.numpy().tobytes() for part in one.start] == [part.numpy().tobytes() for part in two.start]
        for name in ("lengths", "bootstrap", "first"):
            assert getattr(one, name) == getattr(two, name)
        assert ended == ended_too
    assert differences(agent.state(), other.state()) == []


def test_a_state_is_a_copy_that_further_steps_do_not_touch():
    agent, _ = build()
    play(agent, [20], truncated=False, count=2)
    state = agent.state()
    kept = {name: np.copy(state[name]) for name in ("h", "c")}
    play(agent, [20], truncated=False, count=2)
    assert all((state[name] == kept[name]).all() for name in kept)


@pytest.mark.parametrize("length", [0, 1, 10_000])
def test_weights_of_another_network_are_refused(length):
    agent, _ = build()
    before = agent.flat.values.clone()
    with pytest.raises(ValueError, match=f"{length} parameters were saved, this network has {len(before)}"):
        agent.load_weights(np.zeros(length, np.float32))
    assert (agent.flat.values == before).all()


def test_a_store_remembers_everything_and_refuses_the_state_of_other_networks():
    agent, _ = build()
    store, rng = store_of(agent, extra=5), np.random.default_rng(0)
    for kind in ("rl", "align0", "distill", "rl"):
        store.apply(kind, rng.normal(size=store.sizes[kind]).astype(np.float32))
    other = store_of(agent, extra=5)
    other.load_state(store.state())
    gradient = rng.normal(size=store.sizes["rl"]).astype(np.float32)
    for one in (store, other):
        one.apply("rl", gradient)
    assert differences(store.state(), other.state()) == []
    with pytest.raises(ValueError, match="parameters were saved"):
        store_of(agent).load_state(store.state())


# What is not finite


@pytest.mark.parametrize("reward", [math.inf, math.nan])
def test_a_loss_that_is_not_finite_is_named_and_nothing_is_staged(reward, tmp_path):
    agent, staged = build()
    rollout = rollout_of(agent)
    rollout.rewards[3] = reward
    with pytest.raises(NonFiniteError, match="rl: the loss is") as refused:
        agent.learn(rollout)
    assert staged == []
    write_batch(tmp_path / "crash" / "rollout.h5", refused.value.batch)
    with h5py.File(tmp_path / "crash" / "rollout.h5") as file:
        assert set(file) == set(Rollout._fields)
        np.testing.assert_array_equal(file["rewards"], rollout.rewards)


def test_a_distillation_from_logits_that_are_not_finite_stages_nothing():
    agent, staged = build()
    with pytest.raises(NonFiniteError, match="distill: the loss is"):
        agent.mimic(rollout_of(agent), torch.full((7, ACTIONS), math.nan), 1.0, "distill")
    assert staged == []


@pytest.mark.parametrize("poison", [math.inf, -math.inf, math.nan])
def test_a_gradient_that_is_not_finite_is_refused_by_the_store_before_it_is_applied(poison):
    agent, _ = build()
    store = store_of(agent)
    store.apply("rl", np.ones(store.sizes["rl"], np.float32))
    before = store.state()
    gradient = np.ones(store.sizes["rl"], np.float32)
    gradient[-1] = poison
    with pytest.raises(NonFiniteError, match="rl"):
        store.apply("rl", gradient)
    assert differences(store.state(), before) == []


def test_two_infinities_do_not_hide_each_other():
    agent, _ = build()
    gradient = np.zeros(len(agent.flat.values), np.float32)
    gradient[:2] = math.inf, -math.inf
    with pytest.raises(NonFiniteError):
        store_of(agent).apply("distill", gradient)
