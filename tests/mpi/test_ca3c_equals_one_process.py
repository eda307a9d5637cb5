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


class Outcome(NamedTuple):
    """What the loop leaves behind."""

    store: Any
    worker: assembly.Worker
    frames: int
    updates: int
    episode: int
    actions: list[int]
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
    agent, seeds = worker.agent, SeedTree(config.seed)
    env = envs.make(task.env.id, task.env.kwargs)
    frames = updates = episode = 0
    obs, _ = env.reset(seed=seeds.integer(0, "env", episode))
    actions: list[int] = []
    value, returns, kinds, losses = 0.0, [], [], []
    while frames < config.frames:  # 1
        gradients.clear()  # 2
        worker.load_values(store.values)  # 3
        over, start = False, frames  # 4
        while not over and frames - start < config.agent.rollout:  # 6, 15
            action = agent.act(obs)  # 7
            after, reward, terminated, truncated, _ = env.step(action)  # 8
            discount = 0.0 if terminated else config.agent.discount
            agent.observe(Transition(obs, action, reward * config.agent.reward_scale, discount, after))
            obs, value, over = after, value + reward, terminated or truncated
            actions.append(action)
            frames += 1  # 14
        rollout = agent.finish(over=over)
        if over:
            returns.append(value)
            episode, actions, value = episode + 1, [], 0.0
            obs, _ = env.reset(seed=seeds.integer(0, "env", episode))
        agent.learn(rollout)  # 16 - 23
        told: list[float] = []
        for given, lesson in zip(task.teachers, worker.transfers, strict=True):
            if given.t_stop is not None and frames >= given.t_stop:
                continue
            if frames >= given.t1:  # 10, 25
                logits = lesson.teacher.logits(rollout.obs, first=rollout.first, student=rollout.start)  # 11
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
    return Outcome(store, worker, frames, updates, episode, actions, returns, kinds, losses)


def compare(run: Path, rank: int, config: CA3CConfig, plain: Outcome) -> None:
    """Every bit of the last checkpoint and of what the logs say of learning."""
    server = saved(run, "pole")
    mine = saved(run, "pole", f"rank{rank:04d}.h5")
    assert differences(server["store"], plain.store.state()) == []
    assert server["server"] == {"frames": plain.frames, "version": plain.updates}
    assert differences(mine["agent"], plain.worker.agent.state()) == []
    loop = {"frames": plain.frames, "episode": plain.episode, "actions": np.array(plain.actions, np.int64)}
    assert differences(mine["loop"], loop) == []
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
    assert table["episode_return"][~np.isnan(table["episode_return"])].tolist() == plain.returns


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
    "a worker and a server": ("alone", "dedicated", "eager"),
    "a worker that serves itself": ("alone", "shared", "eager"),
    "two teachers, aligned and distilled online": ("online", "dedicated", "eager"),
    "two teachers, aligned and distilled online, on one rank": ("online", "shared", "fused"),
    "a teacher of the policy layer, without alignment": ("identity", "shared", "eager"),
}


@pytest.mark.parametrize("case", CASES)
def test_one_worker_equals_algorithm_1_in_one_process_bit_for_bit(case, mpirun, tmp_path: Path):
    kind, server, backend = CASES[case]
    task = {**POLE, "teachers": teachers_of(tmp_path, kind)}
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
    assert config.frames <= plain.frames < config.frames + config.agent.rollout
