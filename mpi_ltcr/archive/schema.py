"""The log tables, declared once for the writer and for analysis.

One HDF5 file per agent, `logs/agent0000.h5`. A group is a table, a dataset is a 1-D column, all columns of a table
have the same length. The first columns are the shared clocks. Raw values only: smoothing belongs to analysis.

    pandas.DataFrame({name: column[:] for name, column in h5py.File(path)["eval"].items()})
    xarray.open_dataset(path, group="eval", engine="h5netcdf")
"""

from __future__ import annotations

from typing import NamedTuple

FORMAT = "mpi-ltcr-log"
FORMAT_VERSION = 1


class Column(NamedTuple):
    """One column: its numpy type ("text" for strings), unit and meaning."""

    dtype: str
    units: str
    long_name: str


CLOCKS = {
    "frames": Column("i8", "frames", "agent steps in the training environment"),
    "updates": Column("i8", "updates", "gradient updates, Revisit and Digest together"),
    "wall_s": Column("f8", "s", "wall time of the run, all attempts together"),
}

TABLES: dict[str, dict[str, Column]] = {
    "episodes": {
        "return": Column("f8", "reward", "undiscounted return of a training episode, in the environment's own reward"),
        "length": Column("i8", "frames", "length of the episode"),
        "truncated": Column("i1", "1", "1: ended by the time limit, 0: by the environment"),
        "lives": Column("i8", "1", "lives that were played; 1 where the game counts none"),
    },
    "eval": {
        "return": Column("f8", "reward", "undiscounted return of an evaluation episode"),
        "length": Column("i8", "frames", "length of the episode"),
        "episode": Column("i8", "1", "number of the episode within this evaluation"),
        "lives": Column("i8", "1", "lives that were played; 1 where the game counts none"),
    },
    "lives": {
        "return": Column("f8", "reward", "undiscounted return of one life, where the game counts lives (Atari)"),
        "length": Column("i8", "frames", "length of the life"),
        "life": Column("i8", "1", "number of the life within its episode, from 0"),
        "evaluation": Column("i1", "1", "1: of an evaluation episode, 0: of a training episode"),
    },
    "battles": {
        "result": Column("i1", "1", "Space Battle, a finished game: 1 the team won, 0 draw, -1 lost, by health"),
        "shots": Column("i8", "missiles", "launched by this agent's ship"),
        "enemy_hits": Column("i8", "missiles", "its missiles that struck an enemy"),
        "friend_hits": Column("i8", "missiles", "its missiles that struck a team mate"),
        "hits_taken": Column("i8", "missiles", "missiles that struck it"),
        "rams": Column("i8", "contacts", "enemies that it ran into"),
        "fire_fraction": Column("f8", "1", "share of fire among its actions"),
        "lived": Column("i8", "frames", "steps that it lived"),
        "evaluation": Column("i1", "1", "1: of an evaluation game, 0: of a training game"),
    },
    "train": {
        "td_loss": Column(
            "f8",
            "nats",
            "LTCR Eq. 3 as cross-entropy (QR: its loss; actor-critic: squared), mean over the round",
        ),
        "policy_loss": Column("f8", "reward", "actor-critic only: -log pi(a|s) A, mean over the steps of the round"),
        "entropy": Column("f8", "nats", "actor-critic only: of its policy, mean over the steps of the round"),
        "revisit_grad_norm": Column("f8", "1", "global gradient norm of Revisit before clipping, mean over the round"),
        "distill_loss": Column("f8", "nats", "LTCR Eq. 6 per vector (QR: its loss) before the round's first Digest"),
        "digest_grad_norm": Column("f8", "1", "global gradient norm of the round's first Digest update"),
        "q_mean": Column("f8", "reward", "mean expected value of the actions in the last Revisit batch"),
        "clipped_fraction": Column("f8", "1", "share of the target's atoms outside the support, last Revisit batch"),
        "epsilon": Column("f8", "1", "share of random actions"),
    },
    "exchange": {
        "round": Column("i8", "rounds", "number of the communication round"),
        "demonstrations": Column("i8", "vectors", "rows of the lesson that this agent received"),
        "kl_teammates": Column(
            "f8", "nats", "KL(teammate || self) on the drawn sample before Digest, mean over one's teachers"
        ),
        "memory_rows": Column("f8", "vectors", "feature vectors in M0; NaN before the first lesson"),
        "bytes_sent": Column("i8", "bytes", "sent by this rank in this round"),
        "bytes_received": Column("i8", "bytes", "received by this rank in this round"),
        "comm_s": Column("f8", "s", "time of this round in MPI calls, waiting for teammates included"),
    },
    "probe": {
        "kl_teammates": Column("f8", "nats", "KL(teammate || self) on the fixed probe set, mean over teammates"),
        "value_spread": Column("f8", "reward", "standard deviation of expected values over the probe set"),
    },
    "perf": {
        "frames_per_s": Column("f8", "frames/s", "frames since the last row over wall time"),
        "explore_s": Column("f8", "s", "Phase 1 since the last row"),
        "communicate_s": Column("f8", "s", "Phase 2 since the last row"),
        "digest_s": Column("f8", "s", "Phase 3 since the last row"),
        "revisit_s": Column("f8", "s", "Phase 4 since the last row"),
        "evaluate_s": Column("f8", "s", "evaluation and probes since the last row"),
        "archive_s": Column("f8", "s", "logs and checkpoints since the last row"),
        "rss_bytes": Column("i8", "bytes", "largest resident memory of the process so far"),
    },
    "distributions": {
        "state": Column("i8", "1", "number of the probe state; 0 is the zero observation"),
        "action": Column("i8", "1", "action"),
        "atom": Column("i8", "1", "number of the atom, from 1 as in LTCR section 2"),
        "z": Column("f8", "reward", "position of the atom"),
        "probability": Column("f4", "1", "mass at the atom"),
    },
    "probe_states": {
        "state": Column("i8", "1", "number of the probe state"),
        "feature": Column("i8", "1", "number within its flattened observation"),
        "value": Column("f8", "observation", "the value there, in the environment's own units"),
    },
    "rollouts": {
        "policy_loss": Column("f8", "1", "cA3C worker: mean over the rollout of -log pi A (Algorithm 1, line 21)"),
        "value_loss": Column("f8", "reward^2", "mean over the rollout of (R - v)^2 (line 22)"),
        "entropy": Column("f8", "nats", "mean entropy of the policy over the rollout"),
        "rl_grad_norm": Column("f8", "1", "norm of the GAE gradient before clipping"),
        "align_loss": Column("f8", "nats", "line 27, mean over the rollout and over teachers"),
        "align_grad_norm": Column("f8", "1", "norm of the alignment gradient before clipping"),
        "distill_loss": Column("f8", "nats", "line 31, mean over the rollout and over teachers"),
        "distill_grad_norm": Column("f8", "1", "norm of the distillation gradient before clipping"),
        "steps": Column("i8", "frames", "length of the rollout, in all games of the worker together"),
        "wait_s": Column("f8", "s", "from sending the gradients to having the newest weights"),
        "work_s": Column("f8", "s", "acting, environment and gradients of the rollout"),
        "bytes_sent": Column("i8", "bytes", "sent to the server with this rollout"),
        "bytes_received": Column("i8", "bytes", "received from the server for the next one"),
    },
    "pushes": {
        "worker": Column("i8", "1", "cA3C server: rank of the worker whose gradients were applied"),
        "staleness": Column("i8", "updates", "updates between the weights a gradient was computed with and applied to"),
        "queue": Column("i8", "1", "requests that were waiting when it was taken"),
        "steps": Column("i8", "frames", "agent steps that came with it"),
        "bytes": Column("i8", "bytes", "size of the message"),
    },
    "returns": {
        "worker": Column("i8", "1", "cA3C server: rank of the worker in whose games a training episode ended"),
        "return": Column("f8", "reward", "undiscounted return of the episode, in the environment's own reward"),
    },
    "events": {
        "time": Column("f8", "s since 1970", "when it happened"),
        "level": Column("text", "", "info, warning or error"),
        "text": Column("text", "", "what happened"),
    },
}

WALL_COLUMNS = frozenset(
    {"wall_s", "comm_s", "time", "rss_bytes", "frames_per_s", "wait_s", "work_s"}
    | {f"{phase}_s" for phase in ("explore", "communicate", "digest", "revisit", "evaluate", "archive")}
)
"""Columns that tell of the machine, not of the learning: the only ones that differ between equal runs."""

WALL_TABLES = frozenset({"perf", "events"})
"""Tables whose number of rows depends on the machine or on the attempts."""


def columns(table: str) -> dict[str, Column]:
    """Clocks and columns of a table, in their order."""
    return {**CLOCKS, **TABLES[table]}
