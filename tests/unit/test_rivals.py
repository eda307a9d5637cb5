"""Enemies that need policies: a frozen team and past selves, in games that teammates share."""

from __future__ import annotations

import threading
from itertools import islice
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from battle_helpers import load, member_of, save_run

from mpi_ltcr import assembly, assembly_c51, options, rivals
from mpi_ltcr.archive.tree import read_tree, write_tree
from mpi_ltcr.config import ConfigError
from mpi_ltcr.envs.lockstep import TeamGames
from mpi_ltcr.envs.opponents import Frozen
from mpi_ltcr.envs.space_battle_rules import Rules
from mpi_ltcr.envs.space_battle_world import World
from mpi_ltcr.interaction import explore
from mpi_ltcr.seeds import SeedTree


def live(member: Any, rounds: int) -> list[Any]:
    """Some rounds of learning alone; all that was met."""
    tape = []
    for _ in range(rounds):
        fresh, episodes = explore(member.loop, member.agent, 10)
        losses = [member.agent.revisit() for _ in range(10)]
        tape.append((fresh.obs.tobytes(), fresh.action.tolist(), episodes, losses))
    return tape


def through_hdf5(state: dict[str, Any]) -> dict[str, Any]:
    with h5py.File("state", "w", driver="core", backing_store=False) as file:
        write_tree(file, state)
        return read_tree(file)


# In the shared game


def policy_of(number: int) -> Any:
    """Plays by what it sees and by who it is."""
    return lambda seen: int(np.floor(1000 * seen.astype(np.float64).sum()) + number) % 4


def test_teammates_who_steer_the_enemies_play_the_game_that_one_process_plays_with_both_crews() -> None:
    team, games, steps = 3, 2, 450
    rules = Rules(team_size=team, arena=200.0, health=40)
    barrier, slots, digests = threading.Barrier(team), [np.empty(0)] * team, [[] for _ in range(team)]

    def teammate(ship: int) -> None:
        def exchange(mine: np.ndarray) -> np.ndarray:
            slots[ship] = mine.copy()
            barrier.wait()
            everyone = np.stack(slots)
            barrier.wait()
            return everyone

        shared = TeamGames(
            rules=rules,
            ship=ship,
            opponents=[Frozen(policies=policy_of(10 + ship)) for _ in range(games)],  # only of its own number
            rng_of=lambda game, episode: np.random.default_rng([game, episode]),
            exchange=exchange,
            piloted=True,
        )
        for _ in range(steps):
            list(shared.play(policy_of(ship)))
            digests[ship].append(shared.world.digest())

    threads = [threading.Thread(target=teammate, args=(ship,)) for ship in range(team)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    crew = [policy_of(number) for number in (0, 1, 2, 10, 11, 12)]
    rngs, episodes, expected = [np.random.default_rng([game, 0]) for game in range(games)], [0] * games, []
    world = World(rules=rules, rngs=rngs)
    world.reset()
    for rng in world.rngs:
        rng.integers(2**63)  # what the opponents' generators are made of
    for _ in range(steps):
        seen = world.observe()
        over = world.step(np.array([[crew[s](seen[g, s]) for s in range(2 * team)] for g in range(games)])).over
        for game in np.flatnonzero(over):
            episodes[game] += 1
            world.reset([game], rngs=[np.random.default_rng([game, episodes[game]])])
            world.rngs[game].integers(2**63)
        expected.append(world.digest())
    assert min(episodes) >= 2
    assert digests == [expected] * team


def test_selfplay_is_played_against_what_the_learner_was_and_a_restored_run_goes_on_exactly() -> None:
    config = load("--env.kwargs.enemies", "selfplay:100")
    member = member_of(config)
    first = member.agent.weights()
    live(member, 25)
    saved = through_hdf5({"agent": member.agent.state(), "loop": member.loop.state()})
    past = saved["loop"]["snapshots"]["weights"]
    assert past.shape == (3, len(first))  # of frames 0, 100 and 200
    assert (past[0] == first).all()
    assert not (past[1] == past[2]).all()
    assert not (past[2] == member.agent.weights()).all()

    twin = member_of(config)
    twin.agent.load_state(saved["agent"])
    twin.loop.load_state(saved["loop"])
    assert live(twin, 40) == live(member, 40)
    playing = {opponent.playing for opponent in member.loop.games.opponents}
    assert len(member.loop.snapshots) == 7
    assert twin.evaluate(twin.agent.player(np.random.default_rng(1)), 3, 0) == member.evaluate(
        member.agent.player(np.random.default_rng(1)), 3, 0
    )
    assert playing <= set(range(7))


def test_a_frozen_team_plays_as_it_was_saved_and_a_resumed_run_keeps_it_though_its_own_run_went_on(
    tmp_path: Path,
) -> None:
    teacher = member_of(load("--seed", "5"))
    live(teacher, 20)
    run = save_run(tmp_path / "run", load("--seed", "5"), teacher.agent)
    before = sorted((path, path.stat().st_mtime_ns) for path in run.rglob("*"))
    config = load("--env.kwargs.enemies", f"frozen:{run}")
    member = member_of(config)
    assert sorted((path, path.stat().st_mtime_ns) for path in run.rglob("*")) == before, "it is only read"

    seen = next(islice(member.loop.steps(member.agent), 0, None)).transition.obs  # whatever a ship can see
    greedy = assembly.build_guest(load("--seed", "5"), member.spec, 0, teacher.agent.weights())
    values = teacher.agent.distributions(seen[None])[0] @ teacher.agent.support.numpy()
    assert greedy(seen) == member.loop.snapshots[0](seen) == values.argmax()

    member = member_of(config)
    live(member, 15)
    saved = through_hdf5({"agent": member.agent.state(), "loop": member.loop.state()})
    live(teacher, 20)
    save_run(run, load("--seed", "5"), teacher.agent, frames=20)
    twin = member_of(config)
    assert not (twin.loop.snapshots.state()["weights"] == saved["loop"]["snapshots"]["weights"]).all()
    twin.agent.load_state(saved["agent"])
    twin.loop.load_state(saved["loop"])
    assert live(twin, 30) == live(member, 30)


# Who may play


def test_a_frozen_team_flies_each_ship_by_the_agent_of_its_number_or_by_the_only_one(tmp_path: Path) -> None:
    pair = load("--env.kwargs.rules", "{team_size: 2}")
    spec = member_of(load()).spec._replace(obs_shape=(18,))
    agents = [
        assembly_c51.build_c51(pair.agent, spec, SeedTree(8), i, torch.device("cpu"), 0.0, pair.transfer)
        for i in (0, 1)
    ]
    for crew in (agents, agents[1:]):
        run = save_run(tmp_path / f"of{len(crew)}", pair, *crew)
        asked = load("--env.kwargs.rules", "{team_size: 2}", "--env.kwargs.enemies", f"frozen:{run}")
        found = rivals.find(asked)
        for ship in (0, 1):
            snapshots = assembly.build_snapshots(found, spec, ship, lambda: np.empty(0))
            wanted = crew[ship if len(crew) == 2 else 0].weights()
            assert (snapshots.state()["weights"] == wanted).all()


def test_a_frozen_team_of_another_number_or_of_damaged_files_is_refused(tmp_path: Path) -> None:
    member = member_of(load())
    run = save_run(tmp_path / "run", load(), member.agent, member.agent)
    asked = load("--env.kwargs.enemies", f"frozen:{run}")
    with pytest.raises(ConfigError, match=r"has 2 agents, a team of 1 needs as many, or one"):
        rivals.find(asked)
    save_run(run, load(), member.agent, frames=20)
    save_run(run, load(), member.agent, frames=30)
    torn = run / "checkpoints" / "step_000000030" / "rank0000.h5"
    torn.write_bytes(torn.read_bytes()[:-1])
    found = rivals.find(asked)
    assert found.folder.name == "step_000000020"
    assert "step_000000030: rank0000.h5 has" in found.refused[0]
    (run / "config.yaml").write_text(options.to_yaml(load("--agent.hidden", "[17]")))
    with pytest.raises(ValueError, match="parameters were saved, this network has"):
        member_of(asked)


def test_where_nobody_needs_a_policy_nobody_is_looked_for() -> None:
    for name in ("random", "scripted", "stationary"):
        config = load("--env.kwargs.enemies", name)
        assert rivals.find(config) is None
        assert rivals.without_policies(config.env) == config.env.kwargs
    asked = load("--env.kwargs.enemies", "selfplay")
    assert rivals.without_policies(asked.env) == {**asked.env.kwargs, "enemies": "random"}
    assert rivals.find(asked).every == 10_000


def test_ranks_that_share_a_game_must_agree_on_its_rules_and_enemies_and_on_whether_they_share_it() -> None:
    spec = member_of(load()).spec
    mine = assembly.fingerprint(load(), spec, 0)
    assert assembly.disagreement([mine, assembly.fingerprint(load(), spec, 1)]) is None
    others = assembly.fingerprint(load("--env.kwargs.enemies", "selfplay"), spec, 1)
    told = assembly.disagreement([mine, others])
    assert told.startswith("env.kwargs: agent 0 has {")
    assert "'enemies': 'selfplay'" in told
    alone = assembly.fingerprint(load("--env.shared", "false", "--env.copies", "1"), spec, 1)
    assert assembly.disagreement([mine, alone]).startswith("env.shared: agent 0 has True, agent 1 has ")
    assert assembly.disagreement([alone, mine]).startswith("env.shared: agent 0 has ")
