"""Who teaches whom: the tables against their definitions, and that exactly the messages of the table are sent."""

from __future__ import annotations

import typing
from collections import Counter
from typing import Any

import h5py
import numpy as np
import pytest
from team_room import Room, Seat, in_threads

from mpi_ltcr import assembly
from mpi_ltcr.archive.tree import read_tree, write_tree
from mpi_ltcr.comm.roles import Role
from mpi_ltcr.config import Config, ConfigError, TransferConfig
from mpi_ltcr.interfaces import EnvSpec, Episode, Features, Lesson
from mpi_ltcr.memory.public import PublicMemory
from mpi_ltcr.seeds import SeedTree
from mpi_ltcr.transfer.public_memory import AVERAGE
from mpi_ltcr.transfer.topology import TOPOLOGIES, Topology

SPEC = EnvSpec((3,), np.dtype(np.float32), 2)
ATOMS, DRAWN = 7, 5
NOTHING = np.empty(0)


def topology(name: str, size: int, k: int = 1, seed: int = 0) -> Topology:
    return Topology(name=name, size=size, k=k, rng=np.random.default_rng(seed))


# The tables


def test_the_configuration_offers_what_the_table_has() -> None:
    assert list(TOPOLOGIES) == list(typing.get_args(typing.get_type_hints(TransferConfig)["topology"]))


@pytest.mark.parametrize("size", [2, 3, 5])
def test_all_teach_all_and_in_a_ring_each_teaches_the_next(size: int) -> None:
    everybody = topology("all", size).teachers(NOTHING)
    assert [set(row) for row in everybody.tolist()] == [set(range(size)) - {i} for i in range(size)]
    assert topology("ring", size).teachers(NOTHING).tolist() == [[size - 1], *([i] for i in range(size - 1))]


@pytest.mark.parametrize("name", TOPOLOGIES)
@pytest.mark.parametrize(("size", "k"), [(2, 1), (5, 1), (5, 3), (5, 4)])
def test_nobody_teaches_himself_or_anybody_twice_and_teachers_stand_in_ascending_order(name, size, k) -> None:
    table = topology(name, size, k).teachers(np.arange(size, dtype=float) % 3)
    assert table.dtype == np.int64
    assert len(table) == size
    for student, teachers in enumerate(table.tolist()):
        assert teachers == sorted(set(teachers) - {student})
        assert len(teachers) == {"all": size - 1, "ring": 1}.get(name, k)


def test_the_best_are_those_of_highest_return_and_of_equal_ones_the_first() -> None:
    returns = np.array([5.0, -np.inf, 7.0, 5.0])
    assert topology("best-k", 4, 1).teachers(returns).tolist() == [[2], [2], [0], [2]]
    assert topology("best-k", 4, 2).teachers(returns).tolist() == [[2, 3], [0, 2], [0, 3], [0, 2]]
    unknown = np.full(4, -np.inf)
    assert topology("best-k", 4, 2).teachers(unknown).tolist() == [[1, 2], [0, 2], [0, 1], [0, 1]]


def test_random_teachers_are_uniform_independent_and_a_function_of_the_seed() -> None:
    one, two, other = (topology("random-k", 4, 2, seed) for seed in (1, 1, 2))
    tables = [one.teachers(NOTHING) for _ in range(3000)]
    assert all((a == two.teachers(NOTHING)).all() for a in tables)
    assert any((a != other.teachers(NOTHING)).any() for a in tables)
    for student in range(4):  # each of the three pairs in a third of the rounds: 6 sigma of a binomial
        pairs = Counter(tuple(table[student].tolist()) for table in tables)
        assert len(pairs) == 3
        assert all(abs(count - 1000) < 6 * (3000 * 2 / 9) ** 0.5 for count in pairs.values())
    joint = Counter(tuple(map(tuple, table[:2].tolist())) for table in tables)
    assert len(joint) == 9
    assert all(abs(count - 1000 / 3) < 6 * (3000 * 8 / 81) ** 0.5 for count in joint.values())


def test_a_recent_return_is_the_mean_of_the_last_ten_episodes() -> None:
    best = topology("best-k", 3)
    assert best.recent == -np.inf
    best.note([Episode(float(value), 1, False) for value in range(4)])
    assert best.recent == 1.5
    best.note([Episode(float(value), 1, False) for value in range(4, 15)])
    assert best.recent == np.mean(range(5, 15))


# A team in one process


class Oracle:
    """Answers with a distribution that belongs to it, the action and the vector; learns nothing."""

    def __init__(self, index: int) -> None:
        self.weights = np.random.default_rng([7, index]).normal(size=(3 + 1, ATOMS))

    def answer(self, features: Features) -> np.ndarray:
        logits = np.column_stack([features.obs, features.action]) @ self.weights
        masses = np.exp(logits)
        return (masses / masses.sum(-1, keepdims=True)).astype(np.float32)


class Team:
    """Oracles and their transfers."""

    def __init__(self, size: int, seed: int = 1, **fields: Any) -> None:
        settings = TransferConfig(demonstrations=DRAWN, memory_size=40, start=10, **fields)
        self.size, self.config, self.room = size, Config(transfer=settings), Room(size)
        self.seats = [Seat(self.room, i) for i in range(size)]
        self.oracles = [Oracle(i) for i in range(size)]
        self.memory = PublicMemory(capacity=40, spec=SPEC, rng=np.random.default_rng(5))
        self.transfers = [
            assembly._build_transfer(
                self.config,
                Role(i, i, i == 0),
                self.seats[i],  # type: ignore[arg-type]
                SPEC,
                self.memory if i == 0 else None,
                SeedTree(seed),
            )
            for i in range(size)
        ]

    def round(self, number: int) -> list[Lesson | None]:
        """The lesson of each; agent i's episodes so far have returns of `returns_of`."""

        def take_part(i: int) -> Lesson | None:
            rng = np.random.default_rng([number, i])
            fresh = Features(rng.normal(size=(10, 3)).astype(np.float32), rng.integers(2, size=10))
            ended = [Episode(value, 1, False) for value in returns_of(i, number)]
            return self.transfers[i].exchange(self.oracles[i], fresh, ended)  # type: ignore[arg-type]

        return in_threads(take_part, self.size)


def returns_of(agent: int, number: int) -> list[float]:
    """None at first; then others become the best from round to round."""
    return [] if number < 3 else [float((agent * 7 + number * 3) % 11), float(agent)]


def expected_table(name: str, size: int, k: int, number: int, lots: np.random.Generator) -> list[list[int]]:
    """Teachers of each student in round `number` (of which 0 teaches nothing), from the words of the definition."""
    if name == "ring":
        return [[(i + size - 1) % size] for i in range(size)]
    if name == "random-k":
        numbers = lots.random((size, size))
        return [sorted(sorted(set(range(size)) - {i}, key=lambda j: numbers[i, j])[:k]) for i in range(size)]
    histories = [[value for r in range(number + 1) for value in returns_of(i, r)][-10:] for i in range(size)]
    recent = [sum(h) / len(h) if h else float("-inf") for h in histories]
    return [sorted(sorted(set(range(size)) - {i}, key=lambda j: (-recent[j], j))[:k]) for i in range(size)]


CASES = [("ring", 4, 1), ("ring", 2, 1), ("random-k", 4, 2), ("random-k", 3, 1), ("best-k", 4, 2), ("best-k", 4, 1)]


@pytest.mark.parametrize("subset_and_target", ["common peer", "per_teacher peer", "common mean"])
@pytest.mark.parametrize(("name", "size", "k"), CASES)
def test_exactly_the_messages_of_the_topology_are_sent_and_the_lessons_are_what_they_carry(
    name: str, size: int, k: int, subset_and_target: str
) -> None:
    subset, target = subset_and_target.split()
    team = Team(size, topology=name, k=k, subset=subset, target=target)
    lots, tables = SeedTree(1).generator(2**31, "topology"), []
    for number in range(7):
        team.room.heard.clear()
        lessons = team.round(number)
        if number == 0:
            assert lessons == [None] * size
            assert not team.room.heard
            continue
        tables.append(expected_table(name, size, k, number, lots))
        assert sorted(team.room.heard) == sorted((j, i) for i in range(size) for j in tables[-1][i])
        for student, lesson in enumerate(lessons):
            assert lesson is not None
            teachers = tables[-1][student]
            if target == "mean":
                assert (lesson.source == AVERAGE).all()
                voices = [team.oracles[j].answer(lesson.features) for j in sorted([*teachers, student])]
                np.testing.assert_allclose(lesson.target, sum(voices) / len(voices), atol=1e-7)
                continue
            assert lesson.source.tolist() == [j for j in teachers for _ in range(DRAWN)]
            for j in teachers:
                asked = Features(*(column[lesson.source == j] for column in lesson.features))
                np.testing.assert_array_equal(lesson.target[lesson.source == j], team.oracles[j].answer(asked))
    assert {tuple(seat.calls) for seat in team.seats} == {("gather", *(["gather", "bcast", "hear"] * 6))}
    assert name == "ring" or size == 2 or any(table != tables[0] for table in tables)  # the case is worth its name


def test_the_paper_is_the_default_and_uses_one_allgather() -> None:
    team = Team(3)
    team.round(0)
    team.round(1)
    assert team.seats[1].calls == ["gather", "gather", "bcast", "allgather"]
    assert not team.room.heard


def test_allreduce_gives_allgathers_average_and_divergence_in_one_sum() -> None:
    gathered, summed = (Team(4, target="mean", exchange=way) for way in ("allgather", "allreduce"))
    for number in range(4):
        for one, two in zip(gathered.round(number), summed.round(number), strict=True):
            if one is None or two is None:
                assert one is two
                continue
            assert (two.features.obs == one.features.obs).all()
            assert (two.source == one.source).all()
            assert two.target.dtype == np.float32
            np.testing.assert_allclose(two.target, one.target, atol=1e-7)
        for one_transfer, two_transfer in zip(gathered.transfers, summed.transfers, strict=True):
            kl = [transfer.last.get("kl_teammates", 0.0) for transfer in (one_transfer, two_transfer)]
            assert kl[1] == pytest.approx(kl[0], rel=1e-6)
            assert number == 0 or kl[0] > 0.01
    assert gathered.seats[0].calls[-1] == "allgather"
    assert summed.seats[0].calls[-1] == "total"
    assert "allgather" not in summed.seats[0].calls


@pytest.mark.parametrize(("name", "k"), [("ring", 1), ("random-k", 2), ("best-k", 2)])
def test_a_restored_team_is_taught_by_the_same_teachers_as_the_saved_one(name: str, k: int) -> None:
    team, copy = Team(4, topology=name, k=k), Team(4, seed=9, topology=name, k=k)
    for number in range(6):
        team.round(number)
    for saved, restored in zip(team.transfers, copy.transfers, strict=True):
        with h5py.File.in_memory() as file:
            write_tree(file, saved.state())
            restored.load_state(read_tree(file))
    copy.memory.load_state(team.memory.state())
    team.room.heard.clear()
    for number in range(6, 12):
        team.round(number)
        copy.round(number)
        assert sorted(team.room.heard) == sorted(copy.room.heard)


# What cannot be


@pytest.mark.parametrize("name", ["random-k", "best-k"])
def test_more_teachers_than_teammates_are_refused_when_the_team_is_known(name: str) -> None:
    config = Config(transfer=TransferConfig(topology=name, k=3))  # type: ignore[arg-type]
    config.check_team(4)
    with pytest.raises(ConfigError, match=r"^transfer\.k: 3 teachers .* at most 2"):
        config.check_team(3)


@pytest.mark.parametrize("fields", [{}, {"target": "mean", "topology": "ring"}, {"topology": "all"}])
def test_a_sum_of_what_is_not_everybodys_average_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"^transfer\.exchange: allreduce"):
        TransferConfig(exchange="allreduce", **fields)
