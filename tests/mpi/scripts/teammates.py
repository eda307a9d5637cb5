"""Each rank plays one ship of a shared game with a policy of its own; writes what it saw and the world's digests."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from mpi_ltcr.comm import runtime
from mpi_ltcr.comm.collectives import Service
from mpi_ltcr.envs.lockstep import Exchange, TeamGames
from mpi_ltcr.envs.opponents import make_opponent
from mpi_ltcr.envs.space_battle_rules import Rules


def play(ship: int, team: int, games: int, steps: int, exchange: Exchange) -> dict[str, np.ndarray]:
    """What one teammate experiences: digests, rewards, observations, episodes."""
    rules = Rules(team_size=team)
    shared = TeamGames(
        rules=rules,
        ship=ship,
        opponents=[make_opponent("scripted", rules=rules) for _ in range(games)],
        rng_of=lambda game, episode: np.random.default_rng([game, episode]),
        exchange=exchange,
    )
    rng = np.random.default_rng([99, ship])
    digests, rewards, seen, returns = [], [], [], []
    for _ in range(steps):
        for step in shared.play(lambda obs: int(rng.integers(4))):
            rewards.append(np.nan if step.transition is None else step.transition.reward)
            seen.append(np.zeros(1) if step.transition is None else step.transition.next_obs[:1])
            returns += [step.ended.value] if step.ended else []
        digests.append(shared.world.digest())
    return {
        "digests": np.array(digests, np.uint64),
        "rewards": np.array(rewards),
        "seen": np.concatenate(seen),
        "returns": np.array(returns),
    }


if __name__ == "__main__":
    comm = runtime.start()
    exchange = Service(comm, comm.rank).allgather
    if len(sys.argv) > 2 and comm.rank == 1:  # a teammate whose world is another one
        true_exchange = exchange

        def exchange(mine: np.ndarray) -> np.ndarray:
            everyone = true_exchange(mine)
            return everyone if mine.size == 1 else (everyone + 1) % 4

    np.savez(Path(sys.argv[1]) / f"rank{comm.rank}.npz", **play(comm.rank, comm.size, 2, 250, exchange))
    runtime.leave(0)
