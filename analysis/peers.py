"""This program beside other libraries on the same work: agent steps per CPU second.

python analysis/peers.py --frames 3000 --repeats 3 --batch 32 -o peers.csv
python analysis/peers.py --work atari --frames 1000
python analysis/peers.py --work a3c

Installs nothing: whichever of Tianshou, Stable-Baselines3, sb3-contrib and PFRL can be imported takes part
(`tests/peers.sh` makes an environment that has them all). One thread each; all play the environment that we play.

cartpole    15 degrees, 200 steps; an MLP 4-128-128-2x51, one update for each agent step
atari       Phoenix, 84x84, four stacked, 18 actions; the CNN of Mnih et al. 2015, one update for four agent steps
a3c         Pong, 42x42; CDRL's four convolutions and LSTM, rollouts of 20, one worker; ours with its server

A contestant trains in a process of its own, once for 1000 steps and once for 1000 + frames: what the second one costs
more is the cost of the frames; start-up, imports and warm-up cancel out. All take turns, and medians are told. Ours
runs end to end as it does for users, with logs and checkpoints, on CartPole with evaluations; and there once without
them, which the others do not do. Ours takes more steps than was said where they cost little (`LONGER`).
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

WARM = 1000
"""Steps whose cost is subtracted: all have filled their batch by then."""
ATOMS, HIDDEN, LR, DISCOUNT, START = 51, 128, 1e-4, 0.99, 500


class Work(NamedTuple):
    """What is to be done."""

    env_id: str
    kwargs: dict[str, Any]
    pictures: bool
    vmax: float
    """The support is [-vmax, vmax]."""
    period: int
    """Agent steps for each update."""
    ours: tuple[str, ...]
    """Command line of this program."""
    target_period: int = 0
    """Agent steps between two copies into the target network."""
    buffer: int = 0
    algorithm: str = "C51"
    """Only peers of the same kind take part."""

    def environment(self) -> Any:
        """The one that all play."""
        from mpi_ltcr import envs

        return envs.make(self.env_id, self.kwargs)


PHOENIX = {"game": "Phoenix", "preprocessing": "dqn", "episodic_life": True}
WORKS = {
    "cartpole": Work("mpi_ltcr/CartPole15-v0", {}, False, 100.0, 1, ("ltcr-cartpole-alone",), 100, 50_000),
    "atari": Work(
        "mpi_ltcr/Atari-v0", PHOENIX, True, 10.0, 4,
        ("ltcr-phoenix-alone", "--agent.replay_capacity", "10000", "--agent.target_period", "1000",
         "--log.probe_size", "0", "--eval.every", "1000000", "--checkpoint.every", "1000000"),
        1000, 10_000,
    ),
    "a3c": Work(
        "mpi_ltcr/Atari-v0", {"game": "Pong"}, True, 0.0, 20,
        ("small-a3c-pong", "--server", "shared", "--checkpoint.every", "1000000"), algorithm="A3C",
    ),
}  # fmt: skip


def nature(features: int) -> Any:
    """The CNN of Mnih et al. 2015 on (B, 4, 84, 84) pixels of any type, with so many outputs."""
    import torch
    from torch import nn

    class Scaled(nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return torch.as_tensor(pixels, dtype=torch.float32) / 255

    layers = [
        layer for shape in ((4, 32, 8, 4), (32, 64, 4, 2), (64, 64, 3, 1)) for layer in (nn.Conv2d(*shape), nn.ReLU())
    ]
    return nn.Sequential(Scaled(), *layers, nn.Flatten(), nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, features))


def tianshou_c51(work: Work, frames: int, batch: int) -> None:
    """Tianshou's C51Policy, stepped by its Collector."""
    import torch
    from tianshou.data import Collector, VectorReplayBuffer
    from tianshou.env import DummyVectorEnv
    from tianshou.policy import C51Policy
    from tianshou.utils.net.common import Net

    class Pictures(torch.nn.Module):
        def __init__(self, actions: int) -> None:
            super().__init__()
            self.net, self.num_atoms = nature(actions * ATOMS), ATOMS

        def forward(self, obs: Any, state: Any = None, info: Any = None) -> Any:
            return self.net(obs).view(len(obs), -1, ATOMS).softmax(-1), state

    actions = int(work.environment().action_space.n)
    net = (
        Pictures(actions)
        if work.pictures
        else Net((4,), 2, hidden_sizes=[HIDDEN, HIDDEN], softmax=True, num_atoms=ATOMS)
    )
    optim = torch.optim.Adam(net.parameters(), lr=LR)
    updates = work.target_period // work.period
    policy = C51Policy(net, optim, DISCOUNT, ATOMS, -work.vmax, work.vmax, 1, target_update_freq=updates)
    policy.set_eps(0.1)
    once = {"ignore_obs_next": True, "save_only_last_obs": True, "stack_num": 4} if work.pictures else {}
    buffer = VectorReplayBuffer(work.buffer, 1, **once)
    collector = Collector(policy, DummyVectorEnv([work.environment]), buffer, exploration_noise=True)
    for frame in range(0, frames, work.period):
        collector.collect(n_step=work.period)
        if frame >= START:
            policy.update(batch, collector.buffer)


def sb3_dqn(work: Work, frames: int, batch: int) -> None:
    """Stable-Baselines3's DQN: not distributional, so less work."""
    from stable_baselines3 import DQN

    _learn_sb3(DQN, work, frames, batch, {})


def sb3_contrib_qrdqn(work: Work, frames: int, batch: int) -> None:
    """sb3-contrib's QR-DQN with as many quantiles as the others have atoms."""
    from sb3_contrib import QRDQN

    _learn_sb3(QRDQN, work, frames, batch, {"n_quantiles": ATOMS})


def _learn_sb3(algorithm: Any, work: Work, frames: int, batch: int, policy: dict[str, Any]) -> None:
    layers = [] if work.pictures else [HIDDEN, HIDDEN]  # behind their NatureCNN, which has its dense layer
    algorithm(
        "CnnPolicy" if work.pictures else "MlpPolicy",
        work.environment(),
        learning_rate=LR,
        buffer_size=work.buffer,
        learning_starts=START,
        batch_size=batch,
        gamma=DISCOUNT,
        train_freq=work.period,
        gradient_steps=1,
        target_update_interval=work.target_period,
        exploration_final_eps=0.1,
        policy_kwargs={"net_arch": layers, **policy},
        device="cpu",
        seed=1,
    ).learn(total_timesteps=frames)


def pfrl_c51(work: Work, frames: int, batch: int) -> None:
    """PFRL's CategoricalDQN."""
    import numpy as np
    import torch
    from pfrl import q_functions
    from pfrl.agents import CategoricalDQN
    from pfrl.explorers import ConstantEpsilonGreedy
    from pfrl.replay_buffers import ReplayBuffer
    from torch import nn

    class Pictures(nn.Module):
        def __init__(self, actions: int) -> None:
            super().__init__()
            self.net = nature(actions * ATOMS)

        def forward(self, obs: torch.Tensor) -> torch.Tensor:
            return self.net(obs).view(len(obs), -1, ATOMS).softmax(-1)

    env = work.environment()
    if work.pictures:
        z = np.linspace(-work.vmax, work.vmax, ATOMS, dtype=np.float32)
        net = Pictures(int(env.action_space.n))
        q = q_functions.DistributionalSingleModelStateQFunctionWithDiscreteAction(net, z)
    else:
        q = q_functions.DistributionalFCStateQFunctionWithDiscreteAction(4, 2, ATOMS, -work.vmax, work.vmax, HIDDEN, 2)
    agent = CategoricalDQN(
        q,
        torch.optim.Adam(q.parameters(), lr=LR),
        ReplayBuffer(work.buffer),
        DISCOUNT,
        ConstantEpsilonGreedy(0.1, env.action_space.sample),
        minibatch_size=batch,
        replay_start_size=START,
        target_update_interval=work.target_period,
        update_interval=work.period,
        phi=np.asarray if work.pictures else lambda obs: obs.astype(np.float32),
    )
    obs, _ = env.reset(seed=1)
    for _ in range(frames):
        obs, reward, terminated, truncated, _ = env.step(agent.act(obs))
        agent.observe(obs, reward, terminated, truncated)
        if terminated or truncated:
            obs, _ = env.reset()


def pfrl_a3c(work: Work, frames: int, batch: int) -> None:
    """PFRL's A3C: returns where ours has GAE, padding alike on both sides, RMSprop; one process, no server, no log."""
    import pfrl
    import torch
    from pfrl.agents import a3c
    from torch import nn

    env = work.environment()
    actions = int(env.action_space.n)
    convolutions = [layer for c in (1, 32, 32, 32) for layer in (nn.Conv2d(c, 32, 3, 2, 1), nn.ELU())]
    policy = nn.Sequential(nn.Linear(256, actions), pfrl.policies.SoftmaxCategoricalHead())
    heads = pfrl.nn.Branched(policy, nn.Linear(256, 1))
    model = pfrl.nn.RecurrentSequential(*convolutions, nn.Flatten(), nn.LSTM(288, 256), heads)
    optimiser = pfrl.optimizers.SharedRMSpropEpsInsideSqrt(model.parameters(), lr=LR, eps=0.1, alpha=0.99)
    model.share_memory()
    for state in optimiser.state.values():
        for tensor in filter(torch.is_tensor, state.values()):
            tensor.share_memory_()
    agent = a3c.A3C(model, optimiser, work.period, DISCOUNT, beta=0.01, max_grad_norm=40.0, recurrent=True)
    obs, _ = env.reset(seed=1)
    for _ in range(frames):
        obs, reward, terminated, truncated, _ = env.step(int(agent.act(obs)))
        agent.observe(obs, reward, terminated, terminated or truncated)
        if terminated or truncated:
            obs, _ = env.reset()


PEERS: dict[str, tuple[str, Callable[[Work, int, int], None]]] = {
    "Tianshou C51": ("tianshou", tianshou_c51),
    "Stable-Baselines3 DQN": ("stable_baselines3", sb3_dqn),
    "sb3-contrib QR-DQN": ("sb3_contrib", sb3_contrib_qrdqn),
    "PFRL C51": ("pfrl", pfrl_c51),
    "PFRL A3C": ("pfrl", pfrl_a3c),
}
"""Name -> the package that it needs, and its training of so many frames with such a batch (A3C has none)."""

OURS: dict[str, dict[str, tuple[str, ...]]] = {
    "cartpole": {
        "mpi-ltcr C51, eager": ("--agent.backend", "eager"),
        "mpi-ltcr C51, fused": ("--agent.backend", "fused"),
        "mpi-ltcr C51, compiled": ("--agent.backend", "compiled"),
        "mpi-ltcr C51, compiled, no evaluations": ("--agent.backend", "compiled", "--eval.every", "1000000"),
    },
    "atari": {
        "mpi-ltcr C51": (),
        "mpi-ltcr C51, bf16": ("--runtime.precision", "bf16"),
    },
    "a3c": {
        "mpi-ltcr A3C, eager": ("--agent.backend", "eager"),
        "mpi-ltcr A3C, fused": ("--agent.backend", "fused"),
        "mpi-ltcr A3C, fused, eight games": ("--agent.backend", "fused", "--tasks", "[{env: {copies: 8}}]"),
    },
}
"""Work -> name -> what its command line adds."""
BASE = {"cartpole": "mpi-ltcr C51, compiled", "atari": "mpi-ltcr C51", "a3c": "mpi-ltcr A3C, fused"}
"""Work -> the contestant that all are compared with."""
LONGER = {"cartpole": 5, "atari": 1, "a3c": 2}
"""Work -> how many times as long ours runs: what costs little would drown in the noise of starting up."""


def command(work: str, name: str, frames: int, batch: int, out: Path) -> list[str]:
    """How a contestant is started."""
    if name in OURS[work]:
        common = ("--agent.warmup", str(START), "--agent.batch", str(batch), "--log.distributions_at", "[]")
        common = common if WORKS[work].algorithm == "C51" else ()
        asked = (*WORKS[work].ours, *common, *OURS[work][name], "--frames", str(frames), "--out", str(out))
        return [sys.executable, "-m", "mpi_ltcr", "train", *asked]
    asked = ("--work", work, "--only", name, "--frames", str(frames), "--batch", str(batch))
    return [sys.executable, __file__, *asked]


def cpu_seconds(work: str, name: str, frames: int, batch: int) -> float:
    """User and system time of one training. Raises RuntimeError, with the last line it said, if it failed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as folder:
        pools = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        done = subprocess.run(
            command(work, name, frames, batch, Path(folder) / "run"),
            env={**os.environ, **pools, "PYTHONWARNINGS": "ignore"},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["it said nothing"])[-1])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def compare(work: str, names: list[str], frames: int, repeats: int, batch: int) -> dict[str, list[float]]:
    """Steps per CPU second of each contestant, in each repeat; one that fails drops out and says why."""
    rates: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(repeats):
        for name in list(rates):
            try:
                done = frames * (LONGER[work] if name in OURS[work] else 1)
                spent = cpu_seconds(work, name, WARM + done, batch) - cpu_seconds(work, name, WARM, batch)
            except RuntimeError as error:
                print(f"{name} dropped out: {error}", file=sys.stderr)
                del rates[name]
                continue
            rates[name].append(done / max(spent, 1e-9))
            print(f"{name}: {rates[name][-1]:.1f} steps per CPU second", file=sys.stderr, flush=True)
    return rates


def main() -> None:
    """Parse, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", choices=WORKS, default="cartpole", help="what is done (default cartpole)")
    parser.add_argument("--frames", type=int, default=3000, help="agent steps that are measured (default 3000)")
    parser.add_argument("--repeats", type=int, default=3, help="turns (default 3)")
    parser.add_argument("--batch", type=int, default=32, help="transitions of an update (default 32)")
    parser.add_argument("--names", nargs="*", help="contestants that take part (default: all that are there)")
    parser.add_argument("--only", choices=PEERS, help="run this one peer in this process and measure nothing")
    parser.add_argument("-o", "--output", type=Path, help="write a CSV as well")
    asked = parser.parse_args()
    if asked.only:
        import torch

        torch.set_num_threads(1)
        PEERS[asked.only][1](WORKS[asked.work], asked.frames, asked.batch)
        return
    base, ours = BASE[asked.work], OURS[asked.work]
    of_a3c = WORKS[asked.work].algorithm == "A3C"
    rivals = {name: package for name, (package, _) in PEERS.items() if name.endswith("A3C") == of_a3c}
    present = [name for name, package in rivals.items() if importlib.util.find_spec(package)]
    names = [name for name in [*present, *ours] if not asked.names or name in (*asked.names, base)]
    rates = compare(asked.work, names, asked.frames - asked.frames % 40, asked.repeats, asked.batch)
    if base not in rates:
        parser.exit(1, f"{base} dropped out, and nothing is left to compare with\n")
    rate = median(rates[base])
    rows = [(name, round(median(seen), 1), round(rate / median(seen), 2)) for name, seen in rates.items()]
    print(f"{asked.work}, batch {asked.batch}: agent steps per CPU second; how many times {base} is faster")
    for name, seen, times in rows:
        print(f"{name:38s}{seen:10.1f}{times:8.2f}")
    if asked.output:
        with asked.output.open("w", newline="") as file:
            csv.writer(file).writerows([("contestant", "steps_per_cpu_s", "base_is_faster"), *rows])


if __name__ == "__main__":
    main()
