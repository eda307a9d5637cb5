"""Every entry of every table keeps its interface's promises: a new file is tested the day it appears in one."""

from __future__ import annotations

import inspect
import itertools
import typing
import warnings
from functools import partial
from itertools import islice
from typing import Any

import gymnasium
import h5py
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from team_room import Room, Seat, in_threads

from mpi_ltcr import assembly, assembly_c51, envs, interfaces, options
from mpi_ltcr.agents import AGENTS
from mpi_ltcr.archive.checkpoint import flatten
from mpi_ltcr.archive.schema import columns
from mpi_ltcr.archive.tree import read_tree, write_tree
from mpi_ltcr.assembly_agents import build_agent
from mpi_ltcr.comm.roles import Role
from mpi_ltcr.config import C51Config, Config, ConfigError, TransferConfig
from mpi_ltcr.config.ltcr import KINDS
from mpi_ltcr.interaction import EnvLoop, explore
from mpi_ltcr.interfaces import EnvSpec, Features, Lesson, State
from mpi_ltcr.memory.public import PublicMemory
from mpi_ltcr.programs import PROGRAMS
from mpi_ltcr.seeds import SeedTree
from mpi_ltcr.transfer import TRANSFERS

ATOMS = 11
SPEC = EnvSpec((4,), np.dtype(np.float32), 3)


def through_hdf5(state: State) -> State:
    """What a checkpoint makes of a state."""
    with h5py.File.in_memory() as file:
        write_tree(file, state)
        return read_tree(file)


def same_state(a: State, b: State) -> bool:
    def bits(value: Any) -> Any:
        return (value.dtype, value.shape, value.tobytes()) if isinstance(value, np.ndarray) else repr(value)

    return {place: bits(v) for place, v in flatten(a)} == {place: bits(v) for place, v in flatten(b)}


def has_verbs_of(thing: Any, protocol: type) -> None:
    """Every method that the protocol declares is there and takes what the protocol says."""
    for name, verb in inspect.getmembers(protocol, inspect.isfunction):
        if name.startswith("_"):
            continue
        own = getattr(thing, name)
        promised = [p for p in inspect.signature(verb).parameters if p != "self"]
        assert list(inspect.signature(own).parameters) == promised, name


# Agents


def make_agent(name: tuple[str, str], seed: int = 1, index: int = 0) -> Any:
    settings = C51Config(
        returns=name[0],  # type: ignore[arg-type]
        backend=name[1],  # type: ignore[arg-type]
        hidden=(8,),
        atoms=ATOMS,
        vmin=-3.0,
        vmax=3.0,
        batch=8,
        warmup=20,
        replay_capacity=50,
        target_period=7,
        epsilon_frames=60,
        lr=0.01,
    )
    return assembly_c51.build_c51(settings, SPEC, SeedTree(seed), index, torch.device("cpu"), 0.05, TransferConfig())


def some_features(count: int, seed: int = 0) -> Features:
    rng = np.random.default_rng(seed)
    return Features(rng.normal(size=(count, 4)).astype(np.float32), rng.integers(3, size=count))


def live(agent: Any, frames: int, seed: int) -> list[Any]:
    """Let an agent explore, revisit and mimic; everything that it did, to be compared."""
    rng, tape = np.random.default_rng(seed), []
    obs = rng.normal(size=4).astype(np.float32)
    for frame in range(frames):
        action = agent.act(obs)
        following = rng.normal(size=4).astype(np.float32)
        agent.observe(interfaces.Transition(obs, action, float(rng.normal()), 0.9 * (frame % 9 > 0), following))
        obs = following
        tape.append((action, agent.revisit()))
        if frame % 10 == 9:
            features = some_features(4, seed=frame)
            target = np.full((4, ATOMS), 1 / ATOMS, np.float32)
            tape.append(agent.mimic(Lesson(features, target, np.ones(4, np.int64))))
    return tape


@pytest.fixture(params=AGENTS, ids="-".join)
def agent_name(request: pytest.FixtureRequest) -> tuple[str, str]:
    kind: tuple[str, str] = request.param
    return kind


def test_the_table_of_agents_is_what_the_configuration_offers() -> None:
    hints = typing.get_type_hints(C51Config)
    for position, field in enumerate(("returns", "backend")):
        assert {kind[position] for kind in AGENTS} == set(typing.get_args(hints[field]))
    for kind in itertools.product(*(typing.get_args(hints[field]) for field in ("returns", "backend"))):
        if kind not in AGENTS:
            with pytest.raises(ConfigError, match=f"the {kind[1]} backend"):
                make_agent(kind)


def test_the_table_of_transfers_is_what_the_configuration_offers() -> None:
    assert set(TRANSFERS) == set(typing.get_args(typing.get_type_hints(TransferConfig)["method"]))


def test_an_agent_is_of_the_class_that_the_table_says_and_has_the_verbs(agent_name: tuple[str, str]) -> None:
    agent = make_agent(agent_name)
    assert type(agent) is AGENTS[agent_name]
    has_verbs_of(agent, interfaces.Agent)


def test_an_agent_of_every_kind_that_a_team_can_have_has_the_verbs() -> None:
    for kind in KINDS:
        config = Config(agents=[{"kind": kind}], transfer=TransferConfig(lesson="policy"))
        has_verbs_of(build_agent(config, SPEC, 0, torch.device("cpu"), eval_epsilon=0.0), interfaces.Agent)


def test_an_agent_acts_within_its_actions_and_is_evaluated_by_a_policy_of_its_own(agent_name: tuple[str, str]) -> None:
    agent = make_agent(agent_name)
    obs = some_features(200).obs
    assert {agent.act(o) for o in obs} == {0, 1, 2}
    before = through_hdf5(agent.state())
    policy = agent.player(np.random.default_rng(3))
    assert {policy(o) for o in obs} <= {0, 1, 2}
    assert same_state(before, agent.state()), "evaluation changed the agent"


def test_an_agent_answers_with_distributions_and_learns_nothing_by_answering(agent_name: tuple[str, str]) -> None:
    agent = make_agent(agent_name)
    live(agent, 40, seed=2)
    before = through_hdf5(agent.state())
    answer = agent.answer(some_features(9))
    assert (answer.shape, answer.dtype) == ((9, ATOMS), np.float32)
    assert (answer >= 0).all()
    np.testing.assert_allclose(answer.sum(-1), 1, atol=1e-6)
    assert same_state(before, agent.state())


def test_an_agent_does_not_learn_before_its_warm_up_and_does_afterwards(agent_name: tuple[str, str]) -> None:
    agent = make_agent(agent_name)
    metrics = [entry[1] for entry in live(agent, 30, seed=2) if isinstance(entry, tuple)]
    assert metrics[:19] == [{}] * 19
    assert all(metrics[19:])
    assert set(metrics[-1]) <= set(columns("train"))


def test_an_agent_comes_to_mimic_its_teacher(agent_name: tuple[str, str]) -> None:
    student, teacher = make_agent(agent_name), make_agent(agent_name, seed=9)
    features = some_features(16)
    lesson = Lesson(features, teacher.answer(features), np.ones(16, np.int64))
    apart = [distance(student.answer(features), lesson.target)]
    losses = [student.mimic(lesson)["distill_loss"] for _ in range(200)]
    apart.append(distance(student.answer(features), lesson.target))
    assert losses[-1] < losses[0]
    # Masses become quantiles and masses again on the way, which widens what is mimicked.
    assert apart[1] < (0.35 if agent_name[0] == "quantiles" else 0.2) * apart[0]
    assert set(student.mimic(lesson)) <= set(columns("train"))


def distance(one: np.ndarray, two: np.ndarray) -> float:
    """Wasserstein's, in atoms, mean over the rows of masses (N, K)."""
    return float(np.abs(one.cumsum(-1) - two.cumsum(-1)).sum(-1).mean())


def test_a_restored_agent_lives_on_exactly_like_the_saved_one(agent_name: tuple[str, str]) -> None:
    agent = make_agent(agent_name)
    live(agent, 70, seed=2)  # beyond the replay's capacity
    saved = through_hdf5(agent.state())
    copy = make_agent(agent_name, seed=5)
    copy.load_state(saved)
    assert same_state(copy.state(), saved)
    assert live(copy, 40, seed=3) == live(agent, 40, seed=3)
    assert same_state(copy.state(), agent.state())


def test_a_saved_state_does_not_change_while_the_agent_learns_on(agent_name: tuple[str, str]) -> None:
    agent = make_agent(agent_name)
    live(agent, 40, seed=2)
    state = agent.state()
    saved = through_hdf5(state)
    agent.revisit()
    for name in ("weights", "target_weights", "revisit_stepper", "explore_rng"):
        assert same_state({"x": state[name]}, {"x": saved[name]}), name


def test_agents_of_the_same_values_can_load_each_others_states() -> None:
    first, *others = (kind for kind in AGENTS if kind[0] == "atoms")
    assert others
    agent = make_agent(first)
    live(agent, 40, seed=2)
    for name in others:
        other = make_agent(name, seed=5)
        other.load_state(through_hdf5(agent.state()))
        np.testing.assert_allclose(other.answer(some_features(5)), agent.answer(some_features(5)), atol=1e-6)


# Transfers


TEAM = 3


def make_team(name: str) -> list[tuple[Any, Any, PublicMemory | None]]:
    """(agent, transfer, M0 or None) of each."""
    ratio = {"revisit": 1, "digest": 0} if name == "none" else {}
    settings = TransferConfig(method=name, demonstrations=6, memory_size=40, start=20, **ratio)  # type: ignore[arg-type]
    config, room, team = Config(transfer=settings), Room(TEAM), []
    for i in range(TEAM):
        rng = np.random.default_rng(100)
        memory = PublicMemory(capacity=40, spec=SPEC, rng=rng) if i == 0 and name != "none" else None
        role = Role(i, i, i == 0)
        transfer = assembly._build_transfer(config, role, Seat(room, i), SPEC, memory, SeedTree(1))  # type: ignore[arg-type]
        team.append((make_agent(("atoms", "eager"), index=i), transfer, memory))
    return team


def hold_rounds(team: list[Any], first: int, last: int) -> list[list[Lesson | None]]:
    """Each member's lessons of some rounds."""

    def take_part(i: int) -> list[Lesson | None]:
        agent, transfer, _ = team[i]
        return [transfer.exchange(agent, some_features(10, seed=1000 * i + r)) for r in range(first, last)]

    return in_threads(take_part, len(team))


def same_lessons(a: list[list[Lesson | None]], b: list[list[Lesson | None]]) -> bool:
    def same(x: Lesson | None, y: Lesson | None) -> bool:
        if x is None or y is None:
            return x is y
        pairs = zip((*x.features, x.target, x.source), (*y.features, y.target, y.source), strict=True)
        return all(np.array_equal(p, q) for p, q in pairs)

    return all(same(x, y) for mine, yours in zip(a, b, strict=True) for x, y in zip(mine, yours, strict=True))


@pytest.fixture(params=TRANSFERS, ids=list(TRANSFERS))
def transfer_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_transfer_is_of_the_class_that_the_table_says_and_has_the_verbs(transfer_name: str) -> None:
    for _, transfer, _ in make_team(transfer_name):
        assert type(transfer) is TRANSFERS[transfer_name]
        has_verbs_of(transfer, interfaces.Transfer)
        assert isinstance(transfer.lockstep, bool)


def test_lessons_are_teammates_distributions_on_states_that_were_met(transfer_name: str) -> None:
    team = make_team(transfer_name)
    lessons = hold_rounds(team, 0, 5)
    for i, mine in enumerate(lessons):
        assert mine[:2] == [None, None]  # start is 20 frames, a round has 10
        for lesson in mine[2:]:
            if transfer_name == "none":
                assert lesson is None
                continue
            assert lesson is not None
            rows = len(lesson.source)
            assert lesson.features.obs.shape == (rows, 4)
            assert lesson.features.action.shape == (rows,)
            assert lesson.target.shape == (rows, ATOMS)
            np.testing.assert_allclose(lesson.target.sum(-1), 1, atol=1e-6)
            assert set(lesson.source) == set(range(TEAM)) - {i}
            met = np.concatenate([some_features(10, 1000 * a + r).obs for a in range(TEAM) for r in range(5)])
            assert all((met == obs).all(-1).any() for obs in lesson.features.obs)
            for teacher in set(lesson.source):
                told = lesson.source == teacher
                asked = Features(lesson.features.obs[told], lesson.features.action[told])
                np.testing.assert_allclose(lesson.target[told], team[teacher][0].answer(asked), atol=1e-6)


def test_what_a_transfer_tells_of_a_round_fits_the_log(transfer_name: str) -> None:
    team = make_team(transfer_name)
    for rounds in (1, 4):
        hold_rounds(team, 0, rounds)
        for _, transfer, _ in team:
            assert set(transfer.last) <= set(columns("exchange"))


def test_a_restored_transfer_goes_on_exactly_like_the_saved_one(transfer_name: str) -> None:
    team, copies = make_team(transfer_name), make_team(transfer_name)
    hold_rounds(team, 0, 7)
    for (_, transfer, memory), (_, copy, copied_memory) in zip(team, copies, strict=True):
        copy.load_state(through_hdf5(transfer.state()))
        if memory is not None and copied_memory is not None:
            copied_memory.load_state(through_hdf5(memory.state()))
    assert same_lessons(hold_rounds(copies, 7, 10), hold_rounds(team, 7, 10))
    assert all(same_state(c[1].state(), t[1].state()) for c, t in zip(copies, team, strict=True))


# Environments

EXAMPLES: dict[str, dict[str, Any]] = {"mpi_ltcr/Atari-v0": {"game": "pong"}}
"""Arguments without which an environment cannot be made."""


@pytest.fixture(params=envs.ENVS, ids=list(envs.ENVS))
def env_id(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def make_env(env_id: str) -> gymnasium.Env:
    return envs.make(env_id, EXAMPLES.get(env_id, {}))


def test_an_environment_is_clean_in_the_eyes_of_gymnasium(env_id: str) -> None:
    env = make_env(env_id)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*observation space (min|max)imum value is.*infinity.*")
        check_env(env.unwrapped, skip_render_check=True)


def test_an_environment_says_what_agents_must_know_of_it(env_id: str) -> None:
    env = make_env(env_id)
    spec = envs.spec_of(env_id, env)
    obs, _ = env.reset(seed=1)
    assert (obs.shape, obs.dtype) == (spec.obs_shape, spec.obs_dtype)
    assert np.broadcast_shapes(np.shape(spec.obs_scale), spec.obs_shape) == spec.obs_shape
    assert spec.num_actions >= 2


class Wanderer:
    """Acts at random, remembers nothing."""

    def __init__(self, actions: int) -> None:
        self.rng, self.actions = np.random.default_rng(4), actions

    def act(self, obs: np.ndarray) -> int:
        return int(self.rng.integers(self.actions))

    def observe(self, transition: Any) -> None:
        pass


def make_loop(env_id: str, seed: int = 1) -> EnvLoop:
    return EnvLoop(env=make_env(env_id), seed_of=partial(SeedTree(seed).integer, 0, "env"), discount=0.9)


def experience(loop: EnvLoop, agent: Any, frames: int) -> list[Any]:
    return [
        (*(np.asarray(field).tobytes() for field in step.transition), step.ended)
        for step in islice(loop.steps(agent), frames)
        if step.transition is not None
    ]


def test_the_same_seed_plays_the_same_game_and_another_seed_another_one(env_id: str) -> None:
    def play(seed: int) -> list[Any]:
        loop = make_loop(env_id, seed)
        return experience(loop, Wanderer(loop.env.action_space.n), 120)  # type: ignore[attr-defined]

    assert play(1) == play(1)
    if env_id not in SEEDLESS:
        assert play(1) != play(2)


SEEDLESS = {"mpi_ltcr/Atari-v0"}
"""Where the game itself is deterministic: Pong of the first paper has no random start."""


def test_a_restored_loop_plays_on_exactly_like_the_saved_one(env_id: str) -> None:
    loop = make_loop(env_id)
    actions = loop.env.action_space.n  # type: ignore[attr-defined]
    explore(loop, Wanderer(actions), 133)
    copy = make_loop(env_id)
    copy.load_state(through_hdf5(loop.state()))
    assert same_state(copy.state(), loop.state())
    assert experience(copy, Wanderer(actions), 50) == experience(loop, Wanderer(actions), 50)


# Programs


@pytest.fixture(params=PROGRAMS, ids=list(PROGRAMS))
def program_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_program_has_a_configuration_a_preset_and_says_how_it_is_prepared(program_name: str) -> None:
    assert set(options.CONFIGS) == set(PROGRAMS)
    assert PROGRAMS[program_name].prepare.__doc__
    texts = [options.preset_path(name).read_text() for name in options.preset_names()]
    assert any(f"\nprogram: {program_name}\n" in text for text in texts)


PLANNED = {"ltcr": "ltcr-cartpole-9-1", "ca3c": "small-cdrl-collaborative"}
"""A preset of each program; those of `align` start from another run."""


@pytest.mark.parametrize("program", PLANNED)
def test_a_program_tells_its_plan_rank_by_rank(program: str) -> None:
    config, _ = options.load([PLANNED[program]])
    size = getattr(config, "ranks", 2)
    plan = PROGRAMS[program].describe(config, size)
    for rank in range(size):
        assert f"rank {rank}" in plan
    assert f"mpirun -n {size}" in plan
    assert set(PROGRAMS) - set(PLANNED) == {"align"}
