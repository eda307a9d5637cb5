"""cA3C's network and gradients by hand against torch's: every output, every gradient, every number that is logged."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from mpi_ltcr.agents.a3c import A3CAgent
from mpi_ltcr.agents.a3c_fused import FusedA3CAgent
from mpi_ltcr.interfaces import EnvSpec, Rollout, Transition
from mpi_ltcr.nets.flat import flatten
from mpi_ltcr.nets.network_fused import FusedNetwork
from mpi_ltcr.nets.universe import MLPTorso, RecurrentActorCritic, UniverseTorso
from mpi_ltcr.steppers import PushStepper

torch.set_num_threads(1)

ACTIONS, HIDDEN = 5, 7
SCALE = np.array([1, 2, 0.5, 1], np.float32)
SPECS = {
    "frames": EnvSpec((1, 42, 42), np.dtype(np.float32), ACTIONS),
    "stack": EnvSpec((3, 42, 42), np.dtype(np.uint8), ACTIONS, 1 / 255),
    "vectors": EnvSpec((4,), np.dtype(np.float32), ACTIONS, SCALE),
}
TOLERANCES = [(torch.float64, 1e-10), (torch.float32, 1e-5)]

each_spec = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
each_dtype = pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES, ids=["float64", "float32"])

Make = Callable[..., A3CAgent]


def network(spec: EnvSpec, dtype: torch.dtype) -> RecurrentActorCritic:
    """With biases that are not zero and heads that say something."""
    generator = torch.Generator().manual_seed(3)
    torso: Any = MLPTorso(obs_size=4, widths=(6, 5), generator=generator)
    if len(spec.obs_shape) == 3:
        torso = UniverseTorso(channels=spec.obs_shape[0], generator=generator)
    net = RecurrentActorCritic(torso=torso, num_actions=ACTIONS, hidden=HIDDEN, generator=generator)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
        net.policy.weight.mul_(20)
        net.distill.weight.mul_(20)
    return net.to(dtype)


def observations(spec: EnvSpec, *lead: int) -> np.ndarray:
    rng = np.random.default_rng(len(lead))
    shape = (*lead, *spec.obs_shape)
    if spec.obs_dtype == np.uint8:
        return rng.integers(256, size=shape, dtype=np.uint8)
    return rng.normal(size=shape).astype(spec.obs_dtype)


def state_of(batch: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(batch)
    h, c = torch.randn(2, batch, HIDDEN, dtype=torch.float64, generator=generator).to(dtype)
    return h, c


def agree(mine: Any, theirs: torch.Tensor, tolerance: float) -> None:
    """Everywhere within a tolerance of the largest number."""
    reference = theirs.detach().numpy()
    assert mine.shape == reference.shape
    assert mine.dtype == reference.dtype
    assert np.abs(mine - reference).max() <= tolerance * max(1.0, np.abs(reference).max())


# The network


@each_dtype
@each_spec
@pytest.mark.parametrize("lengths", [[1], [6], [3, 3, 3], [2, 5, 1]], ids=str)
def test_all_outputs_and_all_gradients_are_autograds(spec, lengths, dtype, tolerance):
    net = network(spec, dtype)
    obs, start = torch.rand(sum(lengths), *spec.obs_shape, dtype=dtype), state_of(len(lengths), dtype)
    flat, out = flatten(net), net.unroll(obs, start, lengths)
    wanted = [torch.randn(part.shape, dtype=dtype) for part in out]
    torch.autograd.backward(list(out), wanted)
    reference = flat.grads.clone()
    flat.grads.fill_(7)  # nothing is added to what was there
    fused = FusedNetwork(net)
    h, c = start
    mine = fused.unroll(obs.numpy(), (h.numpy(), c.numpy()), lengths)
    wanted[1] = wanted[1][..., None]
    fused.backward({name: part.numpy() for name, part in zip(("policy", "value", "distill"), wanted, strict=True)})
    for name, part in zip(("policy", "value", "distill"), out, strict=True):
        agree(mine[name], part if name != "value" else part[..., None], tolerance)
    agree(flat.grads.numpy(), reference, tolerance)


@each_dtype
@each_spec
def test_a_step_is_the_networks_step(spec, dtype, tolerance):
    net, obs, start = network(spec, dtype), torch.rand(5, *spec.obs_shape, dtype=dtype), state_of(5, dtype)
    flatten(net)
    with torch.no_grad():
        out, after = net.step(obs, start)
    h, c = start
    logits, value, state = FusedNetwork(net).step(obs.numpy(), (h.numpy(), c.numpy()))
    for mine, theirs in zip((logits, value, *state), (out.policy, out.value, *after), strict=True):
        agree(mine, theirs, tolerance)


def test_playing_on_between_an_unroll_and_its_gradient_changes_nothing():
    spec, dtype = SPECS["frames"], torch.float32
    net = network(spec, dtype)
    flat, fused = flatten(net), FusedNetwork(net)
    start = tuple(part.numpy() for part in state_of(1, dtype))
    obs = observations(spec, 6)
    found = []
    for play in (False, True):
        out = fused.unroll(obs, start, [6])
        if play:
            fused.step(-obs[:1], start)
        fused.backward({"policy": np.ones_like(out["policy"])})
        found.append(flat.grads.numpy().copy())
    assert np.array_equal(*found)


# The agent


def build(
    kind: Make, spec: EnvSpec, dtype: torch.dtype, clip: float = 0.0, games: int = 1
) -> tuple[A3CAgent, list[np.ndarray]]:
    net, staged = network(spec, dtype), []
    flat = flatten(net)
    stepper = functools.partial(
        PushStepper, flat=flat, stage=lambda g: staged.append(g.copy()), grad_clip=clip, name="a loss"
    )
    agent = kind(
        spec=spec,
        net=net,
        flat=flat,
        rl_stepper=stepper(),
        distill_stepper=stepper(),
        explore_rngs=[np.random.default_rng(8 + game) for game in range(games)],
        rl=True,
        discount=0.9,
        gae_lambda=0.7,
        value_coef=0.3,
        entropy_coef=0.02,
    )
    if dtype == torch.float64 and kind is A3CAgent:
        agent._obs = lambda obs: torch.from_numpy(obs).to(dtype) * torch.as_tensor(spec.obs_scale, dtype=dtype)  # type: ignore[method-assign]
    return agent, staged


def rollout(spec: EnvSpec, dtype: torch.dtype, *lengths: int) -> Rollout:
    steps, games = sum(lengths), len(lengths)
    rng = np.random.default_rng(steps)
    rewards = rng.normal(size=steps).astype(np.float64 if dtype == torch.float64 else np.float32)
    actions = rng.integers(ACTIONS, size=steps)
    after = tuple(rng.normal(size=games).tolist())
    return Rollout(
        observations(spec, steps), actions, rewards, lengths, state_of(games, dtype), after, (False,) * games
    )


@each_dtype
@each_spec
@pytest.mark.parametrize("clip", [0.0, 0.01])
@pytest.mark.parametrize("lengths", [(9,), (5, 1, 3)], ids=str)
def test_both_agents_learn_and_mimic_with_the_same_gradients_and_tell_the_same_of_it(
    lengths, spec, clip, dtype, tolerance
):
    lesson = rollout(spec, dtype, *lengths)
    aligned = 3 * torch.randn(9, ACTIONS, dtype=dtype, generator=torch.Generator().manual_seed(2))
    told, pushed, outputs = [], [], []
    for kind in (A3CAgent, FusedA3CAgent):
        agent, staged = build(kind, spec, dtype, clip)
        told.append(
            [
                agent.learn(lesson),
                agent.mimic(lesson, aligned, 2.0, "distill"),
                agent.mimic(lesson, aligned, 0.5, "policy"),
            ]
        )
        pushed.append(staged)
        outputs.append(agent.outputs(lesson))
    for theirs, mine in zip(*told, strict=True):
        assert mine == pytest.approx(theirs, rel=10 * tolerance)
    for theirs, mine in zip(*pushed, strict=True):
        agree(mine, torch.from_numpy(theirs), tolerance)
    for theirs, mine in zip(*outputs, strict=True):
        agree(mine.numpy(), theirs, tolerance)


def test_new_weights_are_seen_by_the_next_look_at_the_same_rollout():
    spec, dtype = SPECS["frames"], torch.float32
    agent, _ = build(FusedA3CAgent, spec, dtype)
    lesson = rollout(spec, dtype, 4)
    before = agent.outputs(lesson).policy.clone()
    agent.load_weights(agent.flat.values.numpy() * np.float32(1.1))
    reference, _ = build(A3CAgent, spec, dtype)
    reference.load_weights(agent.flat.values.numpy())
    agree(agent.outputs(lesson).policy.numpy(), reference.outputs(lesson).policy, 1e-5)
    assert (agent.outputs(lesson).policy - before).abs().max() > 1e-2


def play(agent: A3CAgent, path: np.ndarray, after_step: Callable[[int], object]) -> Rollout:
    """Six steps; of several games, the first is over after two and the last after four."""
    games = path.shape[1]
    ends = {0: 1, games - 1: 3} if games > 1 else {}
    for t in range(6):
        here = [game for game in range(games) if t <= ends.get(game, 6)]
        steps = zip(here, agent.act(path[t, here]), strict=True)
        agent.observe([Transition(path[t, g], a, 0.5 * a, 0.9, path[t + 1, g], t == ends.get(g)) for g, a in steps])
        after_step(t)
    return agent.finish()


@each_dtype
@each_spec
@pytest.mark.parametrize("games", [1, 3])
def test_a_rollout_that_was_played_is_learned_from_without_a_second_way_forward(spec, games, dtype, tolerance):
    path, told, pushed = observations(spec, 7, games), [], []
    for kind in (A3CAgent, FusedA3CAgent):
        agent, staged = build(kind, spec, dtype, games=games)
        agent.recurrent = agent._start = state_of(games, dtype)
        if isinstance(agent, FusedA3CAgent):
            agent.fused.unroll = None  # type: ignore[assignment, method-assign]
        for _ in range(2):  # the second one stands in the memory of the first
            lesson = play(agent, path, lambda t: None)
            shape, generator = (len(lesson.actions), ACTIONS), torch.Generator().manual_seed(2)
            aligned = 3 * torch.randn(shape, dtype=dtype, generator=generator)
            told += [agent.learn(lesson), agent.mimic(lesson, aligned, 2.0, "distill")]
        pushed.append(staged)
    for theirs, mine in zip(told[:4], told[4:], strict=True):
        assert mine == pytest.approx(theirs, rel=10 * tolerance)
    for theirs, mine in zip(*pushed, strict=True):
        agree(mine, torch.from_numpy(theirs), tolerance)


@pytest.mark.parametrize("disturb", ["new weights", "another rollout"])
def test_a_rollout_in_the_midst_of_which_something_else_happened_is_unrolled_anew(disturb):
    spec, dtype = SPECS["frames"], torch.float32
    path, pushed = observations(spec, 7, 3), []
    for kind in (A3CAgent, FusedA3CAgent):
        agent, staged = build(kind, spec, dtype, games=3)

        def strike(t: int, agent: A3CAgent = agent) -> None:
            if t == 2 and disturb == "new weights":
                agent.load_weights(agent.flat.values.numpy() * np.float32(1.1))
            elif t == 2:
                agent.learn(rollout(spec, dtype, 3, 2))

        agent.learn(play(agent, path, strike))
        pushed.append(staged)
    for theirs, mine in zip(*pushed, strict=True):
        agree(mine, torch.from_numpy(theirs), 1e-5)


@each_spec
@pytest.mark.parametrize("games", [1, 3])
def test_both_agents_play_alike_from_rollout_to_rollout_and_save_the_same_state(spec, games):
    """The second rollout ends with all episodes, one of them two steps before the others."""
    played, states = [], []
    path = observations(spec, 13, games)
    for kind in (A3CAgent, FusedA3CAgent):
        agent, _ = build(kind, spec, torch.float32, games=games)
        actions, values = [], []
        for t in range(12):
            here = range(1 if games > 1 and 6 <= t < 8 else 0, games)
            over = [t == (5 if games > 1 and game == 0 else 7) for game in here]
            actions.append(agent.act(path[t, here]))
            agent.observe(
                [
                    Transition(path[t, game], action, 1.0, 0.9, path[t + 1, game], last)
                    for game, action, last in zip(here, actions[-1], over, strict=True)
                ]
            )
            if t % 4 == 3:
                values += agent.finish().bootstrap
        player = agent.player(np.random.default_rng(5))
        played.append([*actions, [player(obs) for obs in path[:8, 0]]])
        states.append((agent.state(), values))
    assert played[0] == played[1]
    (theirs, theirs_values), (mine, mine_values) = states
    assert mine_values == pytest.approx(theirs_values, rel=1e-4)
    assert len(mine_values) == 3 * games
    assert mine["explore_rngs"] == theirs["explore_rngs"]
    for part in "hc":
        agree(mine[part], torch.from_numpy(theirs[part]), 1e-5)
    agent.load_state(mine)
    assert all(action in range(ACTIONS) for action in agent.act(path[0]))
