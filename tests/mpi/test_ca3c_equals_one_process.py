"""One worker and its server equal a loop in one process, bit for bit, whether they share a rank or not.

The loop is Algorithm 1 of CDRL, written down naively: no MPI, no server, no `Workshop`, no `EnvLoop`, no `ca3c`. It
shares with the program the parts that are tested apart: agent, teacher, alignment network, and the Adams of the store.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from ca3c_helpers import POLE, POLE3, TINY, TOYS, certificate, config_file, differences, saved

from mpi_ltcr import assembly_ca3c as assembly
from mpi_ltcr import envs, options
from mpi_ltcr.archive.reader import open_log
from mpi_ltcr.config import CA3CConfig
from mpi_ltcr.interfaces import Transition
from mpi_ltcr.seeds import SeedTree

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(300)]


class Game:
    """An environment, and its running episode: its number, the actions in it, and what they brought."""

    def __init__(self, config: CA3CConfig, number: int) -> None:
        (task,) = config.tasks
        self.config, self.env = config, envs.make(task.env.id, task.env.kwargs)
        self.branch = (number,) if number else ()
        self.episode = -1
        self.begin()

    def begin(self) -> None:
        self.episode, self.actions, self.value, self.over = self.episode + 1, [], 0.0, False
        seed = SeedTree(self.config.seed).integer(0, "env", *self.branch, self.episode)
        self.obs, _ = self.env.reset(seed=seed)

    def step(self, action: int) -> Transition:
        before, settings = self.obs, self.config.agent
        self.obs, reward, terminated, truncated, _ = self.env.step(action)
        self.actions.append(action)
        self.value, self.over = self.value + reward, terminated or truncated
        discount = 0.0 if terminated else settings.discount
        return Transition(before, action, reward * settings.reward_scale, discount, self.obs, self.over)


class Outcome(NamedTuple):
    """What the loop leaves behind."""

    store: Any
    worker: assembly.Worker
    frames: int
    updates: int
    games: list[Game]
    returns: list[float]
    kinds: list[set[str]]
    """Of the gradients of each rollout."""
    losses: list[float]
    """Of distillation, of each rollout that has some."""


def algorithm_1(config: CA3CConfig) -> Outcome:
    """The whole run of one worker on one task."""
    (task,) = config.tasks
    teachings = [assembly.load_teaching(config, task, teacher) for teacher in task.teachers]
    store = assembly.build_store(config, 0, teachings)
    gradients: dict[str, np.ndarray] = {}

    def remember(kind: str, gradient: np.ndarray) -> None:
        gradients[kind] = gradient + gradients[kind] if kind in gradients else gradient.copy()

    worker = assembly.build_worker(config, task, 0, teachings, [None] * len(teachings), remember, lambda: None)
    agent, games = worker.agent, [Game(config, number) for number in range(task.env.copies)]
    frames = updates = 0
    returns, kinds, losses = [], [], []
    while frames < config.frames:  # 1
        gradients.clear()  # 2
        worker.load_values(store.values)  # 3
        left, steps = games, 0  # 4
        while left and steps < config.agent.rollout:  # 6, 15
            actions = agent.act([game.obs for game in left])  # 7
            agent.observe([game.step(action) for game, action in zip(left, actions, strict=True)])  # 8
            returns += [game.value for game in left if game.over]
            frames, steps = frames + len(left), steps + 1  # 14
            left = [game for game in left if not game.over]
        rollout = agent.finish()
        for game in games:
            if game.over:
                game.begin()
        agent.learn(rollout)  # 16 - 23
        told: list[float] = []
        for given, lesson in zip(task.teachers, worker.transfers, strict=True):
            if given.t_stop is not None and frames >= given.t_stop:
                continue
            if frames >= given.t1:  # 10, 25
                logits = lesson.teacher.logits(rollout)  # 11
                aligned = lesson.align(logits)
                lesson.align.train(aligned, agent.outputs(rollout).policy)  # 27
            if frames >= given.t2:  # 29
                told.append(agent.mimic(rollout, aligned, given.temperature, given.layer)["distill_loss"])  # 31
        for kind in ("rl", "distill", "align0", "align1"):  # 24, 31, 27: the server's order
            if kind in gradients:
                store.apply(kind, gradients[kind])
        updates += 1
        kinds.append(set(gradients))
        losses += [float(np.mean(told))] if told else []
    worker.load_values(store.values)
    return Outcome(store, worker, frames, updates, games, returns, kinds, losses)


def compare(run: Path, rank: int, config: CA3CConfig, plain: Outcome) -> None:
    """Every bit of the last checkpoint and of what the logs say of learning."""
    server = saved(run, "pole")
    mine = saved(run, "pole", f"rank{rank:04d}.h5")
    assert differences(server["store"], plain.store.state()) == []
    assert server["server"] == {"frames": plain.frames, "version": plain.updates}
    assert differences(mine["agent"], plain.worker.agent.state()) == []
    assert sum(game.pop("frames") for game in mine["games"].values()) == plain.frames
    for number, game in enumerate(plain.games):
        running = {"episode": game.episode, "actions": np.array(game.actions, np.int64)}
        assert differences(mine["games"][str(number)], running) == []
    teachers = {str(i): transfer.state() for i, transfer in enumerate(plain.worker.transfers)}
    assert differences(mine["transfers"], teachers) == []
    assert server["serving"]["returns"].tolist() == plain.returns[-100:]

    log, pushes = open_log(run / "logs" / f"agent{rank:04d}.h5"), open_log(run / "logs" / "server0000.h5")
    assert log.table("episodes")["return"].tolist() == plain.returns
    distilled = log.table("rollouts")["distill_loss"]
    assert distilled[~np.isnan(distilled)].tolist() == plain.losses
    table = pushes.table("pushes")
    assert table["staleness"].tolist() == [0] * plain.updates
    assert table["updates"].tolist() == list(range(1, plain.updates + 1))
    assert table["frames"].tolist() == np.cumsum(table["steps"]).tolist()
    assert (table["worker"] == rank).all()
    returns = pushes.table("returns")
    assert returns["return"].tolist() == plain.returns
    assert (returns["worker"] == rank).all()


def teachers_of(tmp_path: Path, case: str) -> list[dict[str, Any]]:
    if case == "alone":
        return []
    run = certificate(tmp_path / "teacher", tasks=[POLE, POLE3])
    if case == "identity":
        given = {"task": "pole", "align": "identity", "layer": "policy", "t_stop": 150}
        return [{**given, "checkpoint": str(run)}]
    several = [{"task": "pole", "t1": 60, "t2": 110, "temperature": 2.0}, {"task": "pole3", "t1": 20, "t2": 90}]
    return [{**given, "checkpoint": str(run)} for given in several]


CASES = {
    "a worker and a server": ("alone", "dedicated", "eager", 1),
    "a worker that serves itself": ("alone", "shared", "eager", 1),
    "two teachers, aligned and distilled online": ("online", "dedicated", "eager", 1),
    "two teachers, aligned and distilled online, on one rank": ("online", "shared", "fused", 1),
    "a teacher of the policy layer, without alignment": ("identity", "shared", "eager", 1),
    "three games in a worker": ("online", "dedicated", "fused", 3),
    "two games in a worker that serves itself": ("online", "shared", "eager", 2),
}


@pytest.mark.parametrize("case", CASES)
def test_one_worker_equals_algorithm_1_in_one_process_bit_for_bit(case, mpirun, tmp_path: Path):
    kind, server, backend, copies = CASES[case]
    task = {**POLE, "env": {**POLE["env"], "copies": copies}, "teachers": teachers_of(tmp_path, kind)}
    agent = {**TINY["agent"], "backend": backend}
    path = config_file(tmp_path, "run.yaml", frames=200, tasks=[task], server=server, agent=agent)
    run = tmp_path / "run"
    argv = ["-m", "mpi_ltcr", "train", "--config", str(path), "--out", str(run)]
    done = mpirun(2 if server == "dedicated" else 0, argv, timeout=110, env=TOYS)
    assert done.rc == 0, done.err

    torch.set_num_threads(1)
    config = options.load_file(path)
    plain = algorithm_1(config)
    compare(run, 1 if server == "dedicated" else 0, config, plain)
    everything = set().union(*plain.kinds)  # the comparison was of something
    assert (
        everything
        == {
            "alone": {"rl"},
            "identity": {"rl", "distill"},
            "online": {"rl", "distill", "align0", "align1"},
        }[kind]
    )
    assert len(plain.returns) > 3
    assert kind == "alone" or plain.kinds[0] != plain.kinds[-1]
    assert config.frames <= plain.frames < config.frames + copies * config.agent.rollout
