"""This program beside other libraries on the same work: agent steps per CPU second.

python analysis/peers.py --frames 3000 --repeats 3 --batch 32 -o peers.csv

Installs nothing: whichever of Tianshou, Stable-Baselines3, sb3-contrib and PFRL can be imported takes part
(`tests/peers.sh` makes an environment that has them all). The work: CartPole of 15 degrees and 200 steps, an MLP
4-128-128-2x51, one update on a batch for each agent step, a target copied every 100 steps, one thread.

A contestant trains in a process of its own, once for 1000 steps and once for 1000 + frames: what the second one costs
more is the cost of the frames; start-up, imports and warm-up cancel out. All take turns, and medians are told. Ours
runs end to end as it does for users, with evaluations, logs and checkpoints; and once without evaluations, which the
others do not do.
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
from typing import Any

WARM = 1000
"""Steps whose cost is subtracted: all have filled their batch by then."""
ALONE = ("-m", "mpi_ltcr", "train", "ltcr-cartpole-alone", "--agent.warmup", "500", "--log.distributions_at", "[]")
ATOMS, HIDDEN, LR, DISCOUNT, TARGET_PERIOD, START, BUFFER = 51, 128, 1e-4, 0.99, 100, 500, 50_000


def environment() -> Any:
    """The one that all play."""
    from mpi_ltcr import envs

    return envs.make("mpi_ltcr/CartPole15-v0", {})


def tianshou_c51(frames: int, batch: int) -> None:
    """Tianshou's C51Policy, stepped by its Collector."""
    import torch
    from tianshou.data import Collector, VectorReplayBuffer
    from tianshou.env import DummyVectorEnv
    from tianshou.policy import C51Policy
    from tianshou.utils.net.common import Net

    net = Net((4,), 2, hidden_sizes=[HIDDEN, HIDDEN], softmax=True, num_atoms=ATOMS)
    optim = torch.optim.Adam(net.parameters(), lr=LR)
    policy = C51Policy(net, optim, DISCOUNT, ATOMS, -100.0, 100.0, 1, target_update_freq=TARGET_PERIOD)
    policy.set_eps(0.1)
    collector = Collector(policy, DummyVectorEnv([environment]), VectorReplayBuffer(BUFFER, 1), exploration_noise=True)
    for frame in range(frames):
        collector.collect(n_step=1)
        if frame >= START:
            policy.update(batch, collector.buffer)


def sb3_dqn(frames: int, batch: int) -> None:
    """Stable-Baselines3's DQN: not distributional, so less work."""
    from stable_baselines3 import DQN

    _learn_sb3(DQN, frames, batch, {"net_arch": [HIDDEN, HIDDEN]})


def sb3_contrib_qrdqn(frames: int, batch: int) -> None:
    """sb3-contrib's QR-DQN with as many quantiles as the others have atoms."""
    from sb3_contrib import QRDQN

    _learn_sb3(QRDQN, frames, batch, {"net_arch": [HIDDEN, HIDDEN], "n_quantiles": ATOMS})


def _learn_sb3(algorithm: Any, frames: int, batch: int, policy: dict[str, Any]) -> None:
    algorithm(
        "MlpPolicy",
        environment(),
        learning_rate=LR,
        buffer_size=BUFFER,
        learning_starts=START,
        batch_size=batch,
        gamma=DISCOUNT,
        train_freq=1,
        gradient_steps=1,
        target_update_interval=TARGET_PERIOD,
        exploration_final_eps=0.1,
        policy_kwargs=policy,
        device="cpu",
        seed=1,
    ).learn(total_timesteps=frames)


def pfrl_c51(frames: int, batch: int) -> None:
    """PFRL's CategoricalDQN."""
    import numpy as np
    import torch
    from pfrl.agents import CategoricalDQN
    from pfrl.explorers import ConstantEpsilonGreedy
    from pfrl.q_functions import DistributionalFCStateQFunctionWithDiscreteAction
    from pfrl.replay_buffers import ReplayBuffer

    env = environment()
    q = DistributionalFCStateQFunctionWithDiscreteAction(4, 2, ATOMS, -100, 100, HIDDEN, 2)
    agent = CategoricalDQN(
        q,
        torch.optim.Adam(q.parameters(), lr=LR),
        ReplayBuffer(BUFFER),
        DISCOUNT,
        ConstantEpsilonGreedy(0.1, env.action_space.sample),
        minibatch_size=batch,
        replay_start_size=START,
        target_update_interval=TARGET_PERIOD,
        update_interval=1,
        phi=lambda obs: obs.astype(np.float32),
    )
    obs, _ = env.reset(seed=1)
    for _ in range(frames):
        obs, reward, terminated, truncated, _ = env.step(agent.act(obs))
        agent.observe(obs, reward, terminated, truncated)
        if terminated or truncated:
            obs, _ = env.reset()


PEERS: dict[str, tuple[str, Callable[[int, int], None]]] = {
    "Tianshou C51": ("tianshou", tianshou_c51),
    "Stable-Baselines3 DQN": ("stable_baselines3", sb3_dqn),
    "sb3-contrib QR-DQN": ("sb3_contrib", sb3_contrib_qrdqn),
    "PFRL C51": ("pfrl", pfrl_c51),
}
"""Name -> the package that it needs, and its training of so many frames with such a batch."""

OURS = {
    "mpi-ltcr C51, eager": ("--agent.backend", "eager"),
    "mpi-ltcr C51, fused": ("--agent.backend", "fused"),
    "mpi-ltcr C51, fused, no evaluations": ("--agent.backend", "fused", "--eval.every", "1000000"),
}
"""Name -> what its command line adds."""
BASE = "mpi-ltcr C51, fused"
"""The contestant that all are compared with."""


def command(name: str, frames: int, batch: int, out: Path) -> list[str]:
    """How a contestant is started."""
    if name in OURS:
        asked = ("--agent.batch", str(batch), "--frames", str(frames), "--out", str(out))
        return [sys.executable, *ALONE, *OURS[name], *asked]
    return [sys.executable, __file__, "--only", name, "--frames", str(frames), "--batch", str(batch)]


def cpu_seconds(name: str, frames: int, batch: int) -> float:
    """User and system time of one training. Raises RuntimeError, with the last line it said, if it failed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as folder:
        pools = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        done = subprocess.run(
            command(name, frames, batch, Path(folder) / "run"),
            env={**os.environ, **pools, "PYTHONWARNINGS": "ignore"},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["it said nothing"])[-1])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def compare(names: list[str], frames: int, repeats: int, batch: int) -> dict[str, list[float]]:
    """Steps per CPU second of each contestant, in each repeat; one that fails drops out and says why."""
    rates: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(repeats):
        for name in list(rates):
            try:
                spent = cpu_seconds(name, WARM + frames, batch) - cpu_seconds(name, WARM, batch)
            except RuntimeError as error:
                print(f"{name} dropped out: {error}", file=sys.stderr)
                del rates[name]
                continue
            rates[name].append(frames / max(spent, 1e-9))
            print(f"{name}: {rates[name][-1]:.1f} steps per CPU second", file=sys.stderr, flush=True)
    return rates


def main() -> None:
    """Parse, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
        PEERS[asked.only][1](asked.frames, asked.batch)
        return
    present = [name for name, (package, _) in PEERS.items() if importlib.util.find_spec(package)]
    names = [name for name in [*present, *OURS] if not asked.names or name in (*asked.names, BASE)]
    rates = compare(names, asked.frames - asked.frames % 10, asked.repeats, asked.batch)
    ours = median(rates[BASE])
    rows = [(name, round(median(seen), 1), round(ours / median(seen), 2)) for name, seen in rates.items()]
    print(f"batch {asked.batch}: agent steps per CPU second; how many times ours, fused and end to end, is faster")
    for name, rate, times in rows:
        print(f"{name:38s}{rate:10.1f}{times:8.2f}")
    if asked.output:
        with asked.output.open("w", newline="") as file:
            csv.writer(file).writerows([("contestant", "steps_per_cpu_s", "ours_fused_times"), *rows])


if __name__ == "__main__":
    main()
