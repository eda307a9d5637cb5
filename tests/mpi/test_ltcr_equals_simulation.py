"""A team under a real mpirun equals a simulation of it in one process, bit for bit.

The simulation is LTCR section 3 as a plain loop over agents: no MPI, no `Service`, no `PublicMemory`, no `transfer`, no
`interaction`. It shares with the program only the students themselves (tested apart) and the seed tree.
"""

from __future__ import annotations

from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from conftest import TINY

from mpi_ltcr import envs, options
from mpi_ltcr.archive.checkpoint import flatten, load_file
from mpi_ltcr.archive.reader import read_logs
from mpi_ltcr.assembly_agents import build_agent
from mpi_ltcr.config import Config
from mpi_ltcr.interfaces import Features, Lesson, Transition
from mpi_ltcr.seeds import TEAM, SeedTree

pytestmark = pytest.mark.mpi

PRESET = "ltcr-cartpole-9-1"


class Player:
    """One agent, its environment, and what it has lived through."""

    def __init__(self, index: int, config: Config, seeds: SeedTree) -> None:
        self.index, self.seeds = index, seeds
        self.env = envs.make(config.env.id, config.env.kwargs)
        self.eval_env = envs.make(config.env.id, config.env.kwargs)
        spec = envs.spec_of(config.env.id, self.env)
        self.agent = build_agent(config, spec, index, torch.device("cpu"), eval_epsilon=config.eval.epsilon)
        self.discount = config.agent_of(index).discount
        self.upload_rng = seeds.generator(index, "upload")
        self.returns: list[float] = []
        self.evaluations: list[float] = []
        self.losses: list[float] = []
        self.begin(0)

    def begin(self, episode: int) -> None:
        self.episode, self.played, self.value = episode, [], 0.0
        self.obs, _ = self.env.reset(seed=self.seeds.integer(self.index, "env", episode))

    def step(self) -> tuple[np.ndarray, int]:
        obs, action = self.obs, self.agent.act(self.obs)
        self.obs, reward, terminated, truncated, _ = self.env.step(action)
        over = terminated or truncated
        self.agent.observe(Transition(obs, action, reward, 0.0 if terminated else self.discount, self.obs, over))
        self.played.append(action)
        self.value += reward
        if over:
            self.returns.append(self.value)
            self.begin(self.episode + 1)
        return obs, action

    def evaluate(self) -> None:
        number = len(self.evaluations)
        policy = self.agent.player(self.seeds.generator(self.index, "eval_policy", number))
        env: gymnasium.Env = self.eval_env
        obs, _ = env.reset(seed=self.seeds.integer(self.index, "eval_env", number, 0))
        value, over = 0.0, False
        while not over:
            obs, reward, terminated, truncated, _ = env.step(policy(obs))
            value += reward
            over = terminated or truncated
        self.evaluations.append(value)


def simulate(config: Config, size: int) -> tuple[list[Player], dict[int, tuple[np.ndarray, int]], int, object]:
    """Train a team; its players, M0 by place, vectors ever uploaded, and the generator that draws from M0."""
    seeds = SeedTree(config.seed)
    players = [Player(i, config, seeds) for i in range(size)]
    memory: dict[int, tuple[np.ndarray, int]] = {}
    uploaded, draw_rng, t = 0, seeds.generator(TEAM, "subset"), config.transfer
    lots_rng = seeds.generator(TEAM, "topology")

    for turn in range(1, config.frames // config.round_frames + 1):
        # Phase 1
        fresh = [[p.step() for _ in range(config.round_frames)] for p in players]
        # Phase 2: features to M0 ...
        for p, vectors in zip(players, fresh, strict=True):
            wanted = p.upload_rng.random(len(vectors)) < t.upload_probability
            for vector, want in zip(vectors, wanted, strict=True):
                if want:
                    memory[uploaded % t.memory_size] = vector
                    uploaded += 1
        lessons: list[Lesson] = []
        if turn * config.round_frames > t.start and memory:
            # ... what each teacher answers on, its answers, and what each student is to learn from them
            drawn = []
            for _ in range(size if t.subset == "per_teacher" else 1):
                places = draw_rng.integers(len(memory), size=t.demonstrations)
                vectors = [memory[int(place)] for place in places]
                drawn.append(Features(np.stack([obs for obs, _ in vectors]), np.array([a for _, a in vectors])))
            asked = drawn if t.subset == "per_teacher" else drawn * size
            answers = [p.agent.answer(phi) for p, phi in zip(players, asked, strict=True)]
            lots = lots_rng.random((size, size)) if t.topology == "random-k" else None
            for student in range(size):
                teachers = [i for i in range(size) if i != student]
                if lots is not None:
                    teachers = sorted(sorted(teachers, key=lambda i: lots[student, i])[: t.k])
                if t.topology == "best-k":
                    recent = [float(np.mean(p.returns[-10:])) if p.returns else -np.inf for p in players]
                    teachers = sorted(sorted(teachers, key=lambda i: (-recent[i], i))[: t.k])
                if t.target == "mean":
                    voices = [answers[i] for i in sorted([*teachers, student])]
                    total = voices[0]
                    for answer in voices[1:]:
                        total = total + answer
                    rows = [(asked[0].obs, asked[0].action, total / np.float32(len(voices)), -1)]
                else:
                    rows = [(*asked[i], answers[i], i) for i in teachers]
                obs, action, target = (np.concatenate([row[k] for row in rows]) for k in range(3))
                source = np.repeat([row[3] for row in rows], t.demonstrations)
                lessons.append(Lesson(Features(obs, action), target, source))
        for p in players:
            # Phase 3
            for k in range(t.cycle * t.digest // (t.digest + t.revisit) if lessons else 0):
                told = p.agent.mimic(lessons[p.index])["distill_loss"]
                p.losses += [told] if k == 0 else []
            # Phase 4
            for _ in range(t.cycle * t.revisit // (t.digest + t.revisit)):
                p.agent.revisit()
            if turn * config.round_frames % config.eval.every == 0:
                p.evaluate()
    return players, memory, uploaded, draw_rng


def differences(real: dict, simulated: dict) -> list[str]:
    """Paths of the leaves that are not equal to the last bit."""
    one, two = dict(flatten(real)), dict(flatten(simulated))
    assert one.keys() == two.keys()

    def same(a: object, b: object) -> bool:
        arrays = isinstance(a, np.ndarray) and isinstance(b, np.ndarray)
        return a.dtype == b.dtype and a.tobytes() == b.tobytes() and a.shape == b.shape if arrays else a == b

    return [path for path in one if not same(one[path], two[path])]


CASES = {
    "two peers on a common subset": (2, {}),
    "two unlike peers, a subset of each teacher, half uploaded, target networks speak": (
        2,
        {
            "transfer.subset": "per_teacher",
            "transfer.upload_probability": "0.5",
            "transfer.speak_net": "target",
            "agents": "[{}, {hidden: [24]}]",
        },
    ),
    "two that learn from their average": (
        2,
        {"transfer.target": "mean", "transfer.revisit": "5", "transfer.digest": "5"},
    ),
    "C51, Rainbow and linear quantiles that learn from the average of all": (
        3,
        {
            "transfer.target": "mean",
            "transfer.upload_probability": "0.5",
            "agents": "[{backend: compiled, n_step: 2}, "
            "{dueling: true, double: true, noisy: 0.5, n_step: 3, prioritised: true}, "
            "{torso: linear, lr: 1e-3, returns: quantiles}]",
        },
    ),
    "three peers, a subset of each teacher, the best teaches": (
        3,
        {
            "transfer.subset": "per_teacher",
            "transfer.revisit": "7",
            "transfer.digest": "3",
            "transfer.topology": "best-k",
        },
    ),
    "C51, an actor-critic and quantiles that teach each other policies": (
        3,
        {
            "transfer.lesson": "policy",
            "transfer.temperature": "2.0",
            "agents": "[{backend: fused, atoms: 21}, {kind: actor_critic, hidden: [16]}, "
            "{returns: quantiles, discount: 0.9}]",
        },
    ),
    "four that learn from the average of two drawn ones and themselves": (
        4,
        {"transfer.target": "mean", "transfer.topology": "random-k", "transfer.k": "2"},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_ranks_under_mpirun_equal_a_simulation_in_one_process_bit_for_bit(case, run_tiny, tmp_path: Path):
    size, fields = CASES[case]
    overrides = [part for name, value in fields.items() for part in (f"--{name}", value)]
    out = tmp_path / "run"
    done = run_tiny(size, PRESET, out, *overrides)
    assert done.rc == 0, done.err

    torch.set_num_threads(1)
    config, _ = options.load([PRESET, *TINY, *overrides])
    players, memory, uploaded, draw_rng = simulate(config, size)

    folder = out / "checkpoints" / f"step_{config.frames:09d}"
    for p in players:
        saved = load_file(folder / f"rank{p.index:04d}.h5")
        assert differences(saved["agent"], p.agent.state()) == []
        loop = {"frames": config.frames, "episode": p.episode, "actions": np.array(p.played, np.int64)}
        assert differences(saved["loop"], loop) == []
        assert saved["transfer"]["upload_rng"] == p.upload_rng.bit_generator.state
        assert p.agent.digests > 0  # the comparison was of something

    saved = load_file(folder / "memory.h5")
    vectors = [memory[place] for place in range(len(memory))]
    rows = {"obs": np.stack([obs for obs, _ in vectors]), "action": np.array([a for _, a in vectors])}
    ring = {"added": uploaded, "rows": rows}
    assert differences(saved, {"ring": ring, "rng": draw_rng.bit_generator.state}) == []

    for p, log in zip(players, read_logs(out), strict=True):
        assert log.table("eval")["return"].tolist() == p.evaluations
        assert log.table("episodes")["return"].tolist() == p.returns
        losses = log.table("train")["distill_loss"]
        assert losses[~np.isnan(losses)].tolist() == p.losses
