"""The student of LTCR section 2: what each of its verbs changes, and what it must leave alone."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mpi_ltcr.agents.c51 import C51Agent
from mpi_ltcr.archive import checkpoint
from mpi_ltcr.assembly_c51 import build_c51
from mpi_ltcr.config import C51Config, TransferConfig
from mpi_ltcr.interfaces import EnvSpec, Features, Lesson, NonFiniteError, Transition
from mpi_ltcr.nets.flat import flatten
from mpi_ltcr.seeds import SeedTree
from mpi_ltcr.steppers import FlatAdam, LocalAdam
from mpi_ltcr.transfer.public_memory import kl_rows

torch.set_num_threads(1)

ACTIONS, ATOMS = 3, 11
SPEC = EnvSpec((4,), np.dtype(np.float32), ACTIONS, np.array([1, 2, 0.5, 1], np.float32))
TINY = C51Config(
    hidden=(12, 8), atoms=ATOMS, vmin=-5.0, vmax=5.0, batch=8, warmup=8, replay_capacity=60, target_period=10, lr=1e-2
)
CPU = torch.device("cpu")


Build = Callable[..., C51Agent]


@pytest.fixture(params=["eager", "fused", "compiled"])
def build(request: pytest.FixtureRequest) -> Build:
    """`build(index=0, speak_net="online", **settings)` -> an agent; all hold for every backend."""

    def agent(index: int = 0, speak_net: str = "online", **changed: object) -> C51Agent:
        settings = C51Config(**{**vars(TINY), "backend": request.param, **changed})
        transfer = TransferConfig(speak_net=speak_net, digest_adam="own")  # one sees whose moments have moved
        return build_c51(settings, SPEC, SeedTree(4), index, CPU, 0.001, transfer)

    return agent


def experience(count: int, seed: int = 0) -> list[Transition]:
    rng = np.random.default_rng(seed)
    obs = rng.normal(size=(count + 1, 4)).astype(np.float32)
    discounts = rng.choice([0.0, 0.9], size=count)
    rewards = rng.normal(size=count)
    return [
        Transition(obs[i], int(rng.integers(ACTIONS)), float(rewards[i]), float(discounts[i]), obs[i + 1])
        for i in range(count)
    ]


def feed(agent: C51Agent, count: int = 40, seed: int = 0) -> C51Agent:
    for transition in experience(count, seed):
        agent.observe(transition)
    return agent


def features(count: int = 6, action: int | None = None, seed: int = 1) -> Features:
    rng = np.random.default_rng(seed)
    actions = rng.integers(ACTIONS, size=count) if action is None else np.full(count, action, np.int64)
    return Features(rng.normal(size=(count, 4)).astype(np.float32), actions)


def lesson_of(teacher: C51Agent, at: Features) -> Lesson:
    return Lesson(at, teacher.answer(at), np.zeros(len(at.action), np.int64))


def snapshot(agent: C51Agent) -> dict[str, object]:
    """Every leaf of the agent's state, as text that two equal states share to the last bit."""
    leaves = checkpoint.flatten(agent.state())
    return {name: value.tobytes() if isinstance(value, np.ndarray) else value for name, value in leaves}


def changes(agent: C51Agent, action: Callable[[], object]) -> set[str]:
    """Which parts of its state an action changes."""
    before = snapshot(agent)
    action()
    after = snapshot(agent)
    return {name.split("/")[0] for name in before | after if before.get(name) != after.get(name)}


# Eq. 3, from its definition


def naive_softmax(row: np.ndarray) -> list[float]:
    top = max(row)
    e = [math.exp(x - top) for x in row]
    return [x / sum(e) for x in e]


def naive_targets(agent: C51Agent, batch: Transition) -> np.ndarray:
    """Pi_C(r + gamma z, p_theta'(s', a*)), one atom at a time, in Python's own floats."""
    z = np.linspace(TINY.vmin, TINY.vmax, ATOMS).tolist()
    width = z[1] - z[0]
    next_logits = agent.target_net(torch.from_numpy(batch.next_obs * SPEC.obs_scale)).detach().double().numpy()
    targets = np.zeros((len(batch.reward), ATOMS))
    for n in range(len(batch.reward)):
        masses = [naive_softmax(next_logits[n, a]) for a in range(ACTIONS)]
        values = [sum(p * x for p, x in zip(m, z, strict=True)) for m in masses]
        best = values.index(max(values))
        for j in range(ATOMS):
            place = min(max(float(batch.reward[n]) + float(batch.discount[n]) * z[j], TINY.vmin), TINY.vmax)
            for k in range(ATOMS):
                targets[n, k] += masses[best][j] * max(0.0, 1 - abs(place - z[k]) / width)
    return targets


def test_a_revisit_follows_the_gradient_of_equation_3_written_out_naively(build):
    agent = feed(build())
    agent.target_flat.values.detach().mul_(1.7)  # a target network that is not the online one
    twin = copy.deepcopy(agent)
    batch = twin.replay.sample(TINY.batch).batch
    targets = torch.from_numpy(naive_targets(twin, batch)).float()
    logits = twin.net(torch.from_numpy(batch.obs * SPEC.obs_scale))
    loss = torch.stack(
        [-(targets[n] * torch.log(torch.softmax(logits[n, a], 0))).sum() for n, a in enumerate(batch.action)]
    ).mean()
    expected = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(twin.net.parameters()))])

    told = agent.revisit()
    assert torch.allclose(agent.flat.grads, expected, atol=1e-6)
    assert expected.abs().max() > 1e-3
    assert told["td_loss"] == pytest.approx(float(loss.detach()), rel=1e-5)
    assert told["revisit_grad_norm"] == pytest.approx(float(expected.norm()), rel=1e-4)
    own = [sum(p * x for p, x in zip(naive_softmax(row), np.linspace(-5, 5, ATOMS), strict=True))
           for row in (logits[n, a].detach().double().numpy() for n, a in enumerate(batch.action))]  # fmt: skip
    assert told["q_mean"] == pytest.approx(np.mean(own), abs=1e-5)


def test_a_digest_follows_the_gradient_of_equation_6_written_out_naively(build):
    student, lesson = build(0), lesson_of(build(1), features())
    twin = copy.deepcopy(student)
    logits = twin.net(torch.from_numpy(lesson.features.obs * SPEC.obs_scale))
    rows = []
    for n, action in enumerate(lesson.features.action):
        student_masses = torch.softmax(logits[n, action], 0)
        rows.append(sum(float(p) * (math.log(p) - torch.log(q)) for p, q in zip(lesson.target[n], student_masses)))  # noqa: B905
    loss = torch.stack(rows).mean()
    expected = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(twin.net.parameters()))])

    told = student.mimic(lesson)
    assert torch.allclose(student.flat.grads, expected, atol=1e-6)
    assert expected.abs().max() > 1e-4
    assert told["distill_loss"] == pytest.approx(float(loss.detach()), rel=1e-4)
    assert told["digest_grad_norm"] == pytest.approx(float(expected.norm()), rel=1e-4)


# Digest


def test_a_lesson_leaves_its_teacher_as_it_was(build):
    student, teacher = build(0), feed(build(1))
    teacher.flat.grads.zero_()
    assert changes(teacher, lambda: student.mimic(lesson_of(teacher, features()))) == set()
    assert not teacher.flat.grads.any()


def test_the_teachers_masses_get_no_gradient(build):
    student, lesson = build(0), lesson_of(build(1), features())
    masses = torch.from_numpy(lesson.target).requires_grad_()
    student._tensor = lambda array: masses if array is lesson.target else torch.from_numpy(array)
    student.mimic(lesson)
    assert masses.grad is None
    assert student.flat.grads.any()


@pytest.mark.parametrize("verb", ["mimic", "revisit"])
@pytest.mark.parametrize("action", range(ACTIONS))
def test_only_the_stored_actions_atoms_of_the_head_get_gradient(verb, action, build):
    student = build(0)
    for t in experience(20):
        student.observe(t._replace(action=action))
    if verb == "mimic":
        student.mimic(lesson_of(build(1), features(action=action)))
    else:
        student.revisit()
    for grad in (student.net.head.weight.grad, student.net.head.bias.grad):
        of_action = grad.view(ACTIONS, ATOMS, -1)
        for other in range(ACTIONS):
            assert bool(of_action[other].any()) == (other == action)
        assert of_action[action].any(-1).all()  # and each of its atoms
    assert student.net.torso.layers[0].weight.grad.any()


masses = st.lists(st.floats(0.01, 1), min_size=5, max_size=5).map(lambda x: np.array([x], np.float32) / np.sum(x))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(masses, masses)
def test_the_divergence_of_two_answers_is_zero_if_and_only_if_they_are_equal(p, q):
    assert kl_rows(p, p) == 0
    same = np.abs(p - q).max() < 1e-7
    # Pinsker: KL >= (sum |p - q|)^2 / 2; masses are float32, so each sums to 1 only to 1e-7
    assert kl_rows(p, q) >= np.abs(p - q).sum() ** 2 / 2 - 1e-6
    assert same or kl_rows(p, q) + kl_rows(q, p) > 0


def test_a_student_that_agrees_has_nothing_to_digest_and_one_that_does_not_has(build):
    agreeing, differing = build(0), build(1)
    lesson = lesson_of(build(0), features())
    nothing, something = agreeing.mimic(lesson), differing.mimic(lesson)
    assert nothing["distill_loss"] == pytest.approx(0, abs=1e-6)
    assert nothing["digest_grad_norm"] < 1e-6
    assert something["distill_loss"] > 1e-3
    assert something["digest_grad_norm"] > 1e-2


def test_digesting_one_lesson_again_and_again_makes_the_student_give_its_teachers_answers(build):
    student, lesson = build(0), lesson_of(build(1), features(4))
    for _ in range(400):
        student.mimic(lesson)
    assert np.abs(student.answer(lesson.features) - lesson.target).max() < 1e-2


# Two optimisers over one network


def test_a_digest_moves_the_weights_and_its_own_moments_and_nothing_else(build):
    agent = feed(build())
    agent.revisit()
    lesson = lesson_of(build(1), features())
    assert changes(agent, lambda: agent.mimic(lesson)) == {"weights", "digest_stepper", "digests"}


def test_a_revisit_moves_the_weights_and_its_own_moments_and_draws_from_the_replay(build):
    agent = feed(build())
    agent.mimic(lesson_of(build(1), features()))
    assert changes(agent, agent.revisit) == {"weights", "revisit_stepper", "revisits", "replay"}


def test_both_sets_of_moments_are_what_two_adams_would_keep(build):
    """Adam's moments from their definition (Kingma & Ba 2015), fed with the gradients of each verb apart."""
    agent = feed(build())
    lesson = lesson_of(build(1), features())
    moments = {name: (np.zeros(len(agent.flat.values)), np.zeros(len(agent.flat.values))) for name in "rd"}
    for verb in "rrdrdrrd":
        agent.revisit() if verb == "r" else agent.mimic(lesson)
        g = agent.flat.grads.numpy().astype(np.float64)
        m, v = moments[verb]
        moments[verb] = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
    for verb, stepper, steps in (("r", agent.revisit_stepper, 5), ("d", agent.digest_stepper, 3)):
        state = stepper.state()
        assert state["steps"] == steps
        assert np.allclose(state["exp_avg"], moments[verb][0], atol=1e-6)
        assert np.allclose(state["exp_avg_sq"], moments[verb][1], atol=1e-8)


@pytest.mark.parametrize("grad_clip", [0.0, 0.05])
def test_adam_over_the_flat_vector_is_adam_over_every_parameter(grad_clip, build):
    flat_net, plain = build().net, build().net
    flat = flatten(flat_net)
    stepper = LocalAdam(
        flat=flat, adam=FlatAdam(values=flat.values, lr=1e-2, eps=1e-4), grad_clip=grad_clip, name="test"
    )
    parameters = [p.detach().clone().requires_grad_() for p in plain.parameters()]
    for p, own in zip(plain.parameters(), parameters, strict=True):
        p.data = own.data
    adam = torch.optim.Adam(plain.parameters(), lr=1e-2, eps=1e-4)
    rng = torch.Generator().manual_seed(0)
    for _ in range(20):
        obs = torch.randn(5, 4, generator=rng)
        norm = stepper.step(flat_net(obs).square().mean())
        adam.zero_grad()
        plain(obs).square().mean().backward()
        expected = torch.cat([p.grad.reshape(-1) for p in plain.parameters()]).norm()
        assert norm == pytest.approx(float(expected), rel=1e-5)
        if grad_clip:
            torch.nn.utils.clip_grad_norm_(plain.parameters(), grad_clip)
        adam.step()
    values = torch.cat([p.detach().reshape(-1) for p in plain.parameters()])
    assert (flat.values.detach() - values).abs().max() < 2e-6  # after steps of 1e-2


def test_a_clip_makes_the_first_moments_as_small_as_the_clip_and_reports_the_norm_before_it(build):
    agent = feed(build(grad_clip=1e-3))
    norm = agent.revisit()["revisit_grad_norm"]
    assert norm > 1e-2
    assert np.linalg.norm(agent.revisit_stepper.state()["exp_avg"]) == pytest.approx(0.1 * 1e-3, rel=1e-4)


# The target network


def test_the_target_network_becomes_a_copy_every_target_period_frames_and_at_no_other_time(build):
    agent = build(target_period=10)
    assert torch.equal(agent.target_flat.values, agent.flat.values)  # from the start
    lesson = lesson_of(build(1), features())
    for frame, transition in enumerate(experience(60), start=1):
        before = agent.target_flat.values.clone()
        agent.observe(transition)
        agent.revisit()
        agent.mimic(lesson)
        copied = not torch.equal(agent.target_flat.values, before)
        assert copied == (frame % 10 == 0 and frame >= 10), frame
    assert not torch.equal(agent.target_flat.values, agent.flat.values)


def test_the_copy_is_of_the_weights_at_that_frame(build):
    agent = feed(build(target_period=10), 19)
    agent.revisit()
    agent.observe(experience(20)[-1])
    assert torch.equal(agent.target_flat.values, agent.flat.values)
    kept = agent.target_flat.values.clone()
    agent.revisit()
    assert torch.equal(agent.target_flat.values, kept)  # a copy, no alias


@pytest.mark.parametrize("speak_net", ["online", "target"])
def test_the_speaking_network_is_the_one_that_was_chosen(speak_net, build):
    agent = feed(build(speak_net=speak_net))
    agent.revisit()
    at = features()
    net = agent.net if speak_net == "online" else agent.target_net
    logits = net(torch.from_numpy(at.obs * SPEC.obs_scale)).detach().numpy()
    expected = np.stack([naive_softmax(logits[n, a]) for n, a in enumerate(at.action)])
    assert agent.answer(at).dtype == np.float32
    assert np.allclose(agent.answer(at), expected, atol=1e-6)
    assert np.allclose(agent.distributions(at.obs)[0, 1], naive_softmax(agent.net(
        torch.from_numpy(at.obs * SPEC.obs_scale)).detach().numpy()[0, 1]), atol=1e-6)  # fmt: skip


# Nothing that is not finite


def spoil(agent: C51Agent, which: str = "flat") -> C51Agent:
    getattr(agent, which).values.detach()[3] = math.nan
    return agent


@pytest.mark.parametrize(("speak_net", "which"), [("online", "flat"), ("target", "target_flat")])
def test_an_agent_whose_answers_are_not_finite_refuses_to_answer(speak_net, which, build):
    with pytest.raises(NonFiniteError, match="nothing was sent"):
        spoil(build(speak_net=speak_net), which).answer(features())


def nan_reward(agent: C51Agent, teacher: C51Agent) -> None:
    for transition in experience(60):
        agent.replay.add(transition._replace(reward=math.nan))
    agent.revisit()


def nan_target_weights(agent: C51Agent, teacher: C51Agent) -> None:
    spoil(agent, "target_flat").revisit()


def nan_lesson(agent: C51Agent, teacher: C51Agent) -> None:
    lesson = lesson_of(teacher, features())
    lesson.target[2, 3] = math.nan
    agent.mimic(lesson)


def learned(agent: C51Agent) -> list[object]:
    """All that updates change."""
    steppers = [leaf for s in (agent.revisit_stepper, agent.digest_stepper) for leaf in checkpoint.flatten(s.state())]
    return [str(leaf) for leaf in steppers] + [agent.flat.values.tolist(), agent.revisits, agent.digests]


@pytest.mark.parametrize("fault", [nan_reward, nan_target_weights, nan_lesson])
def test_a_loss_that_is_not_finite_stops_before_weights_or_moments_change(fault, build):
    agent = feed(build())
    agent.revisit()
    agent.mimic(lesson_of(build(1), features()))
    before = learned(agent)
    with pytest.raises(NonFiniteError, match=r"loss is nan.*weights were not changed.*agent\.lr"):
        fault(agent, build(1))
    assert learned(agent) == before


@pytest.mark.parametrize("which", ["flat", "target_flat"])
def test_weights_that_are_not_finite_are_not_saved(which, build):
    with pytest.raises(NonFiniteError, match="not saved"):
        spoil(feed(build()), which).state()


# Phase 1


def test_exploration_starts_random_and_ends_nearly_greedy(build):
    agent = build(epsilon_start=1.0, epsilon_end=0.01, epsilon_frames=40)
    told = {}
    for frame in range(61):
        told[frame] = agent.epsilon
        agent.observe(experience(1)[0])
    assert told[0] == 1.0
    assert told[20] == pytest.approx(0.505)
    assert told[40] == told[60] == 0.01
    assert sorted(told.values(), reverse=True) == list(told.values())


def greedy_by_hand(agent: C51Agent, obs: np.ndarray) -> int:
    logits = agent.net(torch.from_numpy(obs[None] * SPEC.obs_scale)).detach().double().numpy()[0]
    z = np.linspace(TINY.vmin, TINY.vmax, ATOMS)
    return int(np.argmax([np.dot(naive_softmax(row), z) for row in logits]))


def test_without_exploration_it_plays_the_action_of_highest_expected_value(build):
    agent = build(epsilon_start=0.0, epsilon_end=0.0)
    seen = 20 * features(60).obs
    chosen = [agent.act(obs) for obs in seen]
    assert chosen == [greedy_by_hand(agent, obs) for obs in seen]
    assert len(set(chosen)) > 1


def test_full_exploration_plays_every_action_equally_often_and_depends_on_its_own_generator_alone(build):
    one, two = build(epsilon_end=1.0), build(epsilon_end=1.0)
    obs = features(1).obs[0]
    np.random.default_rng(0).random()
    chosen = [one.act(obs) for _ in range(3000)]
    assert chosen == [two.act(obs) for _ in range(3000)]
    assert np.abs(np.bincount(chosen) / 3000 - 1 / 3).max() < 0.03


def test_the_evaluated_policy_explores_with_its_own_share_and_leaves_the_agent_alone(build):
    agent = build(epsilon_start=1.0, epsilon_end=1.0)
    seen = 20 * features(60).obs
    policy = agent.player(np.random.default_rng(3))
    chosen = []
    assert changes(agent, lambda: chosen.extend(policy(obs) for obs in seen)) == set()
    assert np.mean([a == greedy_by_hand(agent, obs) for a, obs in zip(chosen, seen, strict=True)]) > 0.95


@pytest.mark.parametrize(("warmup", "batch", "first"), [(20, 8, 20), (0, 8, 8), (5, 16, 16)])
def test_no_update_happens_before_the_warm_up_is_over_and_a_batch_is_there(warmup, batch, first, build):
    agent = build(warmup=warmup, batch=batch)
    for frame, transition in enumerate(experience(30), start=1):
        agent.observe(transition)
        if frame < first:
            assert changes(agent, agent.revisit) == set()
            assert agent.revisit() == {}
        else:
            assert set(agent.revisit()) == {"td_loss", "revisit_grad_norm", "q_mean", "clipped_fraction"}


# Saved and loaded


def live(agent: C51Agent, teacher: C51Agent, frames: int, seed: int) -> list[object]:
    """A while of an agent's life, and all that it said."""
    said: list[object] = []
    for k, transition in enumerate(experience(frames, seed)):
        said.append(agent.act(transition.obs))
        agent.observe(transition)
        said.append(agent.revisit())
        if k % 5 == 0:
            said.append(agent.mimic(lesson_of(teacher, features(seed=k))))
    return [*said, agent.answer(features()).tobytes()]


@pytest.mark.parametrize("frames", [0, 3, 25, 90])
def test_an_agent_that_was_saved_and_loaded_goes_on_bit_for_bit_like_the_first(frames, tmp_path, build):
    first, second = build(0), feed(build(2), 33, seed=9)
    live(first, build(1), frames, seed=1)
    checkpoint.write_file(tmp_path, "rank0000.h5", first.state())
    second.load_state(checkpoint.load_file(tmp_path / "rank0000.h5"))
    assert snapshot(first) == snapshot(second)
    assert live(first, build(1), 40, seed=2) == live(second, build(1), 40, seed=2)
    assert snapshot(first) == snapshot(second)


def test_loading_an_agent_that_never_learned_forgets_the_moments(build):
    fresh, trained = build(0).state(), build(0)
    live(trained, build(1), 20, seed=1)
    trained.load_state(fresh)
    assert trained.revisit_stepper.state()["steps"] == 0
    assert snapshot(trained) == snapshot(build(0))


def test_weights_of_another_shape_are_refused(build):
    wide = build(hidden=(13, 8)).state()
    with pytest.raises(ValueError, match=r"weights: \d+ parameters were saved, this network has \d+"):
        build().load_weights(wide)


# Slots and small things


@pytest.mark.parametrize(
    ("revisit", "digest", "cycle", "slots"),
    [(9, 1, 10, (90, 10)), (7, 3, 10, (70, 30)), (5, 5, 10, (50, 50)), (1, 1, 2, (50, 50)), (9, 1, 20, (90, 10))],
)
def test_a_hundred_slots_are_divided_exactly_as_the_ratio_says(revisit, digest, cycle, slots):
    config = TransferConfig(revisit=revisit, digest=digest, cycle=cycle)
    rounds = 100 // cycle
    assert (rounds * config.revisit_slots, rounds * config.digest_slots) == slots


@pytest.mark.parametrize("backend", ["eager", "fused"])
def test_values_are_the_expectations_of_the_distributions_at_the_pairs(backend):
    agent = build_c51(C51Config(hidden=(8,), atoms=5, vmin=0, vmax=4, backend=backend), SPEC, SeedTree(4), 0, CPU, 0.0,
                      TransferConfig(speak_net="target"))  # fmt: skip
    agent.target_flat.values.detach().mul_(2.0)  # whoever speaks, values are the online network's
    obs = np.random.default_rng(1).normal(size=(6, *SPEC.obs_shape)).astype(np.float32)
    action = np.arange(6) % SPEC.num_actions
    masses = agent.distributions(obs)
    expected = [sum(z * masses[n, a, z] for z in range(5)) for n, a in enumerate(action)]
    np.testing.assert_allclose(agent.values(Features(obs, action)), expected, rtol=1e-5)


@pytest.mark.parametrize("kept", ["own", "shared"])
def test_digest_moves_the_weights_by_moments_of_its_own_or_by_those_of_revisit(kept):
    """Against torch's Adam, one for each of the two or one for both, on the same losses in turn."""
    settings = C51Config(hidden=(3,), atoms=5, lr=1e-2, adam_eps=1e-6)
    agent = build_c51(settings, SPEC, SeedTree(4), 0, CPU, 0.0, TransferConfig(digest_adam=kept))
    twin = agent.flat.values.detach().clone().requires_grad_()
    first = torch.optim.Adam([twin], lr=1e-2, eps=1e-6)
    second = first if kept == "shared" else torch.optim.Adam([twin], lr=1e-2, eps=1e-6)
    for turn in range(6):
        for stepper, adam, scale in ((agent.revisit_stepper, first, 3.0), (agent.digest_stepper, second, 1e-3)):
            stepper.step(sum((scale * (p - turn)).square().sum() for p in agent.net.parameters()))
            adam.zero_grad()
            (scale * (twin - turn)).square().sum().backward()
            adam.step()
    np.testing.assert_allclose(agent.flat.values.detach(), twin.detach(), atol=1e-6)
    restored = build_c51(settings, SPEC, SeedTree(5), 0, CPU, 0.0, TransferConfig(digest_adam=kept))
    restored.load_state(agent.state())
    for one in (agent, restored):
        one.digest_stepper.step(sum(p.square().sum() for p in one.net.parameters()))
    assert torch.equal(restored.flat.values, agent.flat.values)
