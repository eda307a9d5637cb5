"""What cannot be run is refused in one line that names the field, with exit code 2, before anything is made."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from mpi_ltcr import cli, options

ALONE, TEAM, WORKERS = "ltcr-cartpole-alone", "ltcr-cartpole-9-1", "small-a3c-pong"
LEVELS = "abcdefghi"
BOMB = "\n".join(
    ["a: &a [x, x, x, x, x, x, x, x, x]"]
    + [f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]" for old, new in pairwise(LEVELS)]
)
FILES: dict[str, bytes] = {
    "empty.yaml": b"",
    "comment.yaml": b"# frames: 100\n",
    "binary.yaml": bytes(range(256)) * 20,
    "latin1.yaml": "name: caf\xe9\n".encode("latin1"),
    "tabs.yaml": b"agent:\n\tlr: 0.001\n",
    "long.yaml": b"# a comment\n" * 900_000,
    "bomb.yaml": BOMB.encode(),
    "deep.yaml": b"frames: " + b"[" * 5000,
    "list.yaml": b"- frames\n- 100\n",
    "text.yaml": b"hello\n",
    "open.yaml": b"agent: {lr: 0.1\n",
    "object.yaml": b"name: !!python/object/apply:os.mkdir [made_by_yaml]\n",
    "twice.yaml": b"agent:\n  lr: 0.1\n  lr: 0.2\n",
    "typo.yaml": b"agent:\n  learning_rate: 0.1\n",
    "section.yaml": b"agnet:\n  lr: 0.1\n",
    "null.yaml": b"transfer: null\n",
    "included.yaml": b"agent: other.yaml\n",
    "other.yaml": b"lr: 0.1\n",
    "number.yaml": b"agent:\n  lr: fast\n",
    "nan.yaml": b"agent:\n  vmax: .nan\n",
    "boolean.yaml": b"frames: yes\n",
    "date.yaml": b"frames: 2020-02-31\n",
    "config.yaml": b"config: list.yaml\n",
    "plan.yaml": b"plan: true\n",
    "key.yaml": b"? [1, 2]\n: 3\n",
}
BATTLES = {"pair": "team_size: 2", "trio": "team_size: 3", "heading": "relative_theta: heading"}
"""Runs of Space Battle that were never saved, and their rules."""


class Case(NamedTuple):
    """A command line, what its refusal must say, and on how many ranks it is given."""

    argv: list[str]
    says: list[str]
    ranks: int = 1


def alone(*options: str, says: list[str], ranks: int = 1) -> Case:
    return Case(["train", ALONE, *options], says, ranks)


def team(*options: str, says: list[str], ranks: int = 2) -> Case:
    return Case(["train", TEAM, *options], says, ranks)


def battle(*options: str, says: list[str]) -> Case:
    return Case(["train", "small-ltcr-space-battle-2v2-9-1", *options], says, 2)


def enemies(name: str, says: list[str]) -> Case:
    return battle("--env.kwargs.enemies", name, says=["env.kwargs.enemies", *says])


def file(name: str, *says: str) -> Case:
    return Case(["train", "--config", name], [name, *says])


CASES = {
    # names
    "an unknown verb": Case(["trian", TEAM], ["trian", "train"]),
    "an unknown preset": Case(["train", "ltcr-cartpole-9-2"], ["ltcr-cartpole-9-2", "did you mean ltcr-cartpole-9-1"]),
    "a preset that is like none": Case(["train", "?!"], ["?!", "ltcr-cartpole-alone"]),
    "no preset": Case(["train"], ["preset", "ltcr-cartpole-9-1"]),
    "options without a preset": Case(["train", "--frames", "100"], ["preset", "--config"]),
    "a typo in an option": alone("--frmes", "100", says=["frmes", "did you mean frames?"]),
    "a typo below a section": alone("--agent.lrr", "1", says=["agent.lrr", "did you mean agent.lr?"]),
    "an option without its section": alone("--lr", "1", says=["lr", "did you mean agent.lr?"]),
    "a typo with =": alone("--agent.atmos=51", says=["agent.atmos", "agent.atoms"]),
    "an option like none": alone("--wibble", "1", says=["wibble", "--help"]),
    "an abbreviated option": alone("--fram", "100", says=["fram", "frames"]),
    "a word too many": alone("fast", says=["fast"]),
    "an option without its value": alone("--frames", says=["frames", "expected one argument"]),
    # values
    "text for a number": alone("--agent.lr", "fast", says=["agent.lr", "fast"]),
    "text for an integer": alone("--frames", "many", says=["frames", "many"]),
    "a fraction for an integer": alone("--frames", "100.5", says=["frames", "100.5"]),
    "nothing for an integer": alone("--frames", "", says=["frames"]),
    "a boolean for an integer": alone("--frames", "true", says=["frames", "true"]),
    "NaN": alone("--agent.lr", "nan", says=["agent.lr", "nan"]),
    "infinity": alone("--agent.lr", "inf", says=["agent.lr", "inf"]),
    "an infinite reward scale": alone("--agent.reward_scale", "inf", says=["agent.reward_scale", "inf"]),
    "an infinite support": alone("--agent.vmax", ".inf", says=["agent.vmax", "inf"]),
    "a NaN in the support": alone("--agent.vmin", ".nan", says=["agent.vmin", "nan"]),
    "a negative learning rate": alone("--agent.lr", "-0.1", says=["agent.lr", "-0.1"]),
    "a learning rate of zero": alone("--agent.lr", "0", says=["agent.lr"]),
    "no frames": alone("--frames", "0", says=["frames"]),
    "negative frames": alone("--frames", "-100", says=["frames", "-100"]),
    "a negative seed": alone("--seed", "-1", says=["seed", "-1"]),
    "a seed of forty digits": alone("--seed", "9" * 40, says=["seed", "out of range"]),
    "a discount above one": alone("--agent.discount", "1.5", says=["agent.discount", "1.5"]),
    "a list for a number": alone("--agent.batch", "[1, 2]", says=["agent.batch"]),
    "a number for a list": alone("--agent.hidden", "16", says=["agent.hidden", "16"]),
    "a layer without units": alone("--agent.hidden", "[16, 0]", says=["agent.hidden", "0"]),
    "a list that is not closed": alone("--agent.hidden", "[16", says=["agent.hidden", "[16"]),
    "an unknown torso": alone("--agent.torso", "resnet", says=["agent.torso", "resnet", "'mlp', 'linear', 'nature'"]),
    "a CNN for vectors": alone("--agent.torso", "nature", says=["agent.torso", "nature", "pictures", "(4,)", "mlp"]),
    "a CNN in one of the agents": team("--agents", "[{}, {torso: nature}]", says=["agent.torso", "nature", "pictures"]),
    "a CNN without autograd": alone(
        "--agent.torso", "nature", "--agent.backend", "fused", says=["agent.backend: fused", "agent.torso: nature"]
    ),
    "a CNN by numba": alone(
        *("--agent.torso", "nature", "--agent.backend", "compiled"),
        says=["agent.backend: compiled", "agent.torso: nature"],
    ),
    "streams by numba": alone(
        "--agent.backend", "compiled", "--agent.dueling", "true", says=["agent.dueling", "agent.backend: eager"]
    ),
    "a negative clip": alone("--agent.reward_clip", "-1", says=["agent.reward_clip", "-1"]),
    "an agent with another clip": team("--agents", "[{}, {reward_clip: 1}]", says=["agents", "agent.reward_clip"]),
    "an unknown game": alone("--env.id", "mpi_ltcr/Atari-v0", "--env.kwargs.game", "Phenix", says=["env.", "phoenix"]),
    "a game without all 18 actions": alone(
        *("--env.id", "mpi_ltcr/Atari-v0", "--env.kwargs", "{game: Skiing, preprocessing: dqn}"),
        says=["env.", "full_action_space", "skiing", "false"],
    ),
    "an unknown method": team("--transfer.method", "telepathy", says=["transfer.method", "'public_memory', 'none'"]),
    "an unknown device": alone("--runtime.device", "tpu", says=["runtime.device", "'auto', 'cpu', 'cuda'"]),
    "an unknown precision": alone("--runtime.precision", "fp8", says=["runtime.precision", "'fp32', 'bf16'"]),
    "bf16 by hand": alone(
        "--runtime.precision",
        "bf16",
        "--agent.backend",
        "fused",
        says=["runtime.precision: bf16", "agent.backend: eager"],
    ),
    "bf16 in cA3C": Case(
        ["train", "small-a3c-pong", "--runtime.precision", "bf16"], ["runtime.precision", "cA3C", "fp32"], ranks=2
    ),
    "no threads": alone("--runtime.threads", "0", says=["runtime.threads"]),
    "nothing to keep": alone("--checkpoint.keep", "0", says=["checkpoint.keep"]),
    "a number for a section": alone("--agent", "5", says=["agent", "5"]),
    "null for a section": alone("--agent", "null", says=["agent"]),
    "a missing file for a section": alone("--agent", "missing.yaml", says=["agent", "missing.yaml"]),
    "a negative sigma": alone("--agent.noisy", "-0.5", says=["agent.noisy", "-0.5"]),
    "an infinite sigma": alone("--agent.noisy", "inf", says=["agent.noisy", "inf"]),
    "a switch instead of a sigma": alone("--agent.noisy", "true", says=["agent.noisy", "true"]),
    "no step": alone("--agent.n_step", "0", says=["agent.n_step", "0"]),
    "a priority's exponent below 0": alone("--agent.priority_omega", "-0.5", says=["agent.priority_omega", "-0.5"]),
    "a beta above 1": alone("--agent.beta_start", "1.4", says=["agent.beta_start", "1.4"]),
    "a beta that never moves": alone("--agent.beta_frames", "0", says=["agent.beta_frames", "0"]),
    "a value for a flag": alone("--plan=maybe", says=["plan"]),
    # values that do not go together
    "a support upside down": alone("--agent.vmin", "5", "--agent.vmax", "-5", says=["agent.vmin: 5", "agent.vmax: -5"]),
    "a support of one point": alone("--agent.vmin", "100", says=["agent.vmin", "agent.vmax"]),
    "one atom": alone("--agent.atoms", "1", says=["agent.atoms", "1", "at least 2"]),
    "a batch over the buffer": alone("--agent.batch", "60000", says=["agent.batch", "60000", "50000"]),
    "a warm-up over the buffer": alone("--agent.warmup", "60000", says=["agent.warmup", "60000"]),
    "streams by hand": alone(
        "--agent.backend", "fused", "--agent.dueling", "true", says=["agent.dueling", "agent.backend: eager"]
    ),
    "quantiles by hand": alone(
        "--agent.backend", "fused", "--agent.returns", "quantiles", says=["agent.returns", "agent.backend: eager"]
    ),
    "no quantiles": alone("--agent.quantiles", "0", says=["agent.quantiles", "0"]),
    "returns of no kind": alone("--agent.returns", "means", says=["agent.returns", "'atoms', 'quantiles'"]),
    "noise by hand": alone(
        "--agent.backend", "fused", "--agent.noisy", "0.5", says=["agent.noisy", "agent.backend: eager"]
    ),
    "an MLP without layers": alone("--agent.hidden", "[]", says=["agent.hidden", "linear"]),
    "a ratio of 0:0": team("--transfer.revisit", "0", "--transfer.digest", "0", says=["transfer.revisit", "0:0"]),
    "an indivisible cycle": team("--transfer.cycle", "7", says=["transfer.cycle", "7", "multiple of 10"]),
    "averaged targets on unlike samples": team(
        "--transfer.subset", "per_teacher", "--transfer.target", "mean", says=["transfer.target", "common"]
    ),
    "an unknown topology": team("--transfer.topology", "star", says=["transfer.topology", "star", "'all', 'ring'"]),
    "more teachers than teammates": team(
        "--transfer.topology", "random-k", "--transfer.k", "2", says=["transfer.k: 2", "at most 1"]
    ),
    "no teachers": team("--transfer.topology", "best-k", "--transfer.k", "0", says=["transfer.k", "0"]),
    "a sum of peers": team("--transfer.exchange", "allreduce", says=["transfer.exchange", "transfer.target: mean"]),
    "no digestion of what is exchanged": team("--transfer.digest", "0", says=["transfer.digest", "none"]),
    "digestion without exchange": alone("--transfer.digest", "1", says=["transfer.digest", "0"]),
    "no uploads": team("--transfer.upload_probability", "0", says=["transfer.upload_probability"]),
    "a sample over M0": team("--transfer.demonstrations", "60000", says=["transfer.demonstrations", "50000"]),
    "frames that are no rounds": alone("--frames", "105", says=["frames", "105", "10 frames", "100"]),
    "evaluations within rounds": alone("--eval.every", "15", says=["eval.every", "15", "20"]),
    "checkpoints within rounds": alone("--checkpoint.every", "15", says=["checkpoint.every", "15"]),
    "distributions within rounds": alone("--log.distributions_at", "[15]", says=["log.distributions_at", "15"]),
    # the team
    "exchange without teammates": team(says=["transfer.method", "1 rank", "mpirun -n 2"], ranks=1),
    "agents of wrong count": team("--agents", "[{}, {}, {}]", says=["agents", "3", "2", "mpirun -n 3"]),
    "agents that are no list": team("--agents", "5", says=["agents", "5"]),
    "an agent that is no mapping": team("--agents", "[{}, 5]", says=["agents", "5"]),
    "a typo in an agent": team("--agents", "[{}, {hiden: [8]}]", says=["agents[1].hiden", "hidden"]),
    "a wrong type in an agent": team("--agents", "[{lr: slow}, {}]", says=["agents[0].lr", "slow"]),
    "an infinity in an agent": team("--agents", "[{}, {lr: .inf}]", says=["agents[1]", "lr", "inf"]),
    "an agent with another support": team("--agents", "[{}, {atoms: 21}]", says=["agents", "agent.atoms", "51, 21"]),
    "an agent with another discount": team("--agents", "[{}, {discount: 0.5}]", says=["agents", "agent.discount"]),
    "an agent with another reward": team(
        "--agents", "[{}, {reward_scale: 0.1}]", says=["agents", "agent.reward_scale"]
    ),
    "an agent with rounds of its own": team("--agents", "[{}, {update_period: 4}]", says=["agents", "update_period"]),
    "an agent that takes no step": team("--agents", "[{}, {n_step: 0}]", says=["agents[1].n_step", "0"]),
    "an agent with noise by hand": team(
        "--agents", "[{}, {backend: fused, noisy: 0.5}]", says=["agents[1]", "agent.noisy", "agent.backend: eager"]
    ),
    "an agent of an unknown kind": team(
        "--agents", "[{}, {kind: ppo}]", says=["agents[1].kind", "ppo", "actor_critic"]
    ),
    "an actor-critic that tells values": team(
        "--agents", "[{}, {kind: actor_critic}]", says=["agents[1].kind", "transfer.lesson: policy"]
    ),
    "a replay for an actor-critic": team(
        "--agents", "[{}, {kind: actor_critic, replay_capacity: 5}]", says=["agents[1]", "replay_capacity"]
    ),
    "an actor-critic with a target network": team(
        "--transfer.lesson",
        "policy",
        "--transfer.speak_net",
        "target",
        "--agents",
        "[{}, {kind: actor_critic}]",
        says=["agents[1].kind", "transfer.speak_net: online"],
    ),
    "an actor-critic in bf16": team(
        "--transfer.lesson",
        "policy",
        "--runtime.precision",
        "bf16",
        "--agents",
        "[{}, {kind: actor_critic}]",
        says=["agents[1].kind", "runtime.precision: fp32"],
    ),
    "an unknown lesson": team("--transfer.lesson", "gossip", says=["transfer.lesson", "gossip", "policy"]),
    "a policy of no temperature": team("--transfer.temperature", "0", says=["transfer.temperature", "0"]),
    "an unknown device of an agent": team("--agents", "[{}, {device: tpu}]", says=["agents[1].device", "tpu"]),
    "supports that the probe cannot compare": alone(
        "--agents", "[{}, {atoms: 21}]", says=["agents", "agent.atoms", "log.probe_size"], ranks=2
    ),
    # the environment
    "an unknown environment": alone("--env.id", "CartPole-v7", says=["env.id", "CartPole-v7", "CartPole-v1"]),
    "an environment of ours without its prefix": alone(
        "--env.id", "CartPole15-v0", says=["env.id", "did you mean", "mpi_ltcr/CartPole15-v0"]
    ),
    "an environment like none": alone("--env.id", "zzz", says=["env.id", "zzz"]),
    "an environment without a name": alone("--env.id", "", says=["env.id"]),
    "an environment of a missing module": alone("--env.id", "no_such_module:X-v0", says=["env.id", "no_such_module"]),
    "continuous actions": alone("--env.id", "Pendulum-v1", says=["env.id", "Pendulum-v1", "Box actions", "Discrete"]),
    "observations that are no Box": alone("--env.id", "Blackjack-v1", says=["env.id", "Tuple observations", "Box"]),
    "observations that are numbers": alone("--env.id", "CliffWalking-v1", says=["env.id", "Discrete observations"]),
    "observations that are a Dict": alone("--env.id", "tests/Dict-v0", says=["env.id", "Dict observations"]),
    "wrong arguments of the environment": alone("--env.kwargs", "{gravity: 3}", says=["env.kwargs", "gravity"]),
    "wrong values of its arguments": alone("--env.kwargs.angle_limit_deg", "120", says=["env.kwargs", "120"]),
    "text for an angle": alone("--env.kwargs.angle_limit_deg", "wide", says=["env.kwargs", "wide"]),
    "arguments that are no mapping": alone("--env.kwargs", "5", says=["env.kwargs", "5"]),
    "rules that are no mapping": battle("--env.kwargs.rules", "5", says=["env.kwargs", "5"]),
    # who plays the enemies
    "an unknown opponent": battle(
        "--env.kwargs.enemies", "rnadom", says=["rnadom", "there are random, scripted, stationary, frozen, selfplay"]
    ),
    "an opponent that is no name": battle("--env.kwargs.enemies", "5", says=["env.kwargs", "enemies: 5", "random"]),
    "an argument for an opponent without": battle(
        "--env.kwargs.enemies", "scripted:3", says=["scripted:3", "there are random"]
    ),
    "a frozen team without a run": enemies("frozen", says=["frozen", "frozen:runs/a"]),
    "a frozen team of what is missing": enemies("frozen:missing", says=["missing", "not a run directory"]),
    "a frozen team of what is no run": enemies("frozen:old", says=["old", "not a run directory"]),
    "a frozen team of another environment": enemies(
        "frozen:run", says=["run was trained in mpi_ltcr/CartPole15-v0", "mpi_ltcr/SpaceBattle-v0"]
    ),
    "a frozen team of the other program": enemies("frozen:pong", says=["pong is a run of ca3c", "ltcr"]),
    "a frozen team of another size": enemies("frozen:trio", says=["trio", "rules.team_size 3", "this game has 2"]),
    "a frozen team of another layout": enemies(
        "frozen:heading", says=["heading", "rules.relative_theta heading", "this game has bearing"]
    ),
    "a frozen team that was never saved": enemies("frozen:pair", says=["pair", "no whole checkpoint"]),
    "self-play within rounds": enemies("selfplay:105", says=["selfplay:105", "10 frames", "nearest is 100"]),
    "self-play without end": enemies("selfplay:10", says=["selfplay:10", "2001 snapshots", "at most 200"]),
    "self-play in words": enemies("selfplay:often", says=["selfplay:often", "selfplay:10000"]),
    "self-play alone": battle(
        "--env.kwargs.enemies", "selfplay", "--env.shared", "false", says=["selfplay", "set env.shared: true"]
    ),
    "mates that learn": battle(
        "--env.kwargs.mates", "selfplay", says=["env.kwargs", "mates", "selfplay opponent needs policies"]
    ),
    "a team of another size than its ranks": battle(
        "--env.kwargs.rules.team_size", "3", says=["rules.team_size", "a team of 3", "mpirun -n 3"]
    ),
    "a preset of a team of five": Case(
        ["train", "ltcr-space-battle-5v5-9-1"], ["ltcr-space-battle-5v5-9-1", "did you mean", "4v4-9-1"]
    ),
    "a team of none": battle("--env.kwargs.rules.team_size", "0", says=["env.kwargs", "team_size", "at least 1"]),
    "arguments without names": alone("--env.kwargs", "{1: 2}", says=["env.kwargs"]),
    # files
    "a missing file": file("missing.yaml", "config", "no such file"),
    "a missing file with =": Case(["train", "--config=missing.yaml"], ["config", "missing.yaml"]),
    "no file at all": Case(["train", "--config"], ["config", "expected one argument"]),
    "a nameless file": Case(["train", "--config", ""], ["config"]),
    "a directory": file("folder", "config", "not a regular file"),
    "a pipe": file("pipe", "config", "not a regular file"),
    "a device": file("/dev/zero", "config", "not a regular file"),
    "a file that cannot be read": file("/proc/self/mem", "config"),
    "an empty file": file("empty.yaml", "config"),
    "a file of comments": file("comment.yaml", "config"),
    "a binary file": file("binary.yaml", "config", "UTF-8"),
    "a file in another encoding": file("latin1.yaml", "config", "UTF-8"),
    "tabs": file("tabs.yaml", "config", "tabs"),
    "a file of 10 MB": file("long.yaml", "config", "bytes"),
    "a billion laughs": file("bomb.yaml", "config", "aliases"),
    "a well of brackets": file("deep.yaml", "config", "nested"),
    "a list instead of fields": file("list.yaml", "config"),
    "a word instead of fields": file("text.yaml", "config"),
    "a bracket that is not closed": file("open.yaml", "config", "line"),
    "an object": file("object.yaml", "config", "python/object"),
    "a field given twice": file("twice.yaml", "agent.lr", "twice"),
    "a date": file("date.yaml", "config"),
    "a key that is a list": file("key.yaml", "config"),
    "a section that is null": file("null.yaml", "transfer"),
    "a section that is another file": file("included.yaml", "agent"),
    "a command line's option in a file": file("config.yaml", "config: unknown option"),
    "another one": file("plan.yaml", "plan: unknown option"),
    "a typo in a file": Case(["train", "--config", "typo.yaml"], ["agent.learning_rate", "unknown option"]),
    "a typo in a section's name": Case(["train", "--config", "section.yaml"], ["agnet.lr", "agent.lr"]),
    "text for a number in a file": Case(["train", "--config", "number.yaml"], ["agent.lr", "fast"]),
    "a NaN in a file": Case(["train", "--config", "nan.yaml"], ["agent.vmax", "nan"]),
    "a boolean for an integer in a file": Case(["train", "--config", "boolean.yaml"], ["frames", "True"]),
    # the run directory
    "an existing run directory": alone("--out", "old", says=["out", "old exists already", "resume"]),
    "a file in place of the run directory": alone("--out", "list.yaml", says=["out", "exists already"]),
    "a run directory below a file": alone("--out", "list.yaml/run", says=["out", "list.yaml"]),
    "a run directory with a blank": alone("--out", "my run", says=["out", "my run"]),
    "a run directory without a name": alone("--out", "", says=["out"]),
    "the parent as a run directory": alone("--out", "..", says=["out", ".."]),
    "a name that leaves the folder": alone("--name", "../../x", says=["name", "../../x"]),
    "an empty name": alone("--name", "", says=["name"]),
    # other verbs
    "resume of nothing": Case(["resume"], ["run"]),
    "resume of what is missing": Case(["resume", "missing"], ["missing", "config.yaml"]),
    "resume of a directory that is no run": Case(["resume", "old"], ["old", "config.yaml"]),
    "resume of a file": Case(["resume", "list.yaml"], ["list.yaml"]),
    "resume to text": Case(["resume", "run", "--frames", "many"], ["frames", "many"]),
    "resume to nothing": Case(["resume", "run", "--frames", "0"], ["frames", "0"]),
    "resume with a typo": Case(["resume", "run", "--force-unlok"], ["--force-unlok"]),
    "resume with a damaged configuration": Case(["resume", "damaged"], ["damaged/config.yaml", "UTF-8"]),
    "eval of what is missing": Case(["eval", "missing"], ["missing", "config.yaml"]),
    "eval of no episode": Case(["eval", "run", "--episodes", "0"], ["--episodes", "0"]),
    "eval of a text of episodes": Case(["eval", "run", "--episodes", "x"], ["--episodes", "x"]),
    "launch without ranks": Case(["launch", "--", "train", ALONE], ["-n"]),
    "launch of nothing": Case(["launch", "-n", "2"], ["launch", "mpi-ltcr launch -n 2 -- train PRESET"]),
    "launch of a verb without ranks": Case(["launch", "-n", "2", "--", "status", "run"], ["launch", "status"]),
    "launch on no ranks": Case(["launch", "-n", "0", "--", "train", ALONE], ["-n", "at least 1"]),
    "launch on too few ranks": Case(["launch", "-n", "1", "--", "train", TEAM], ["transfer.method", "mpirun -n 2"]),
    "launch with a typo behind --": Case(["launch", "-n", "2", "--", "train", TEAM, "--frmes", "9"], ["frames?"]),
    "launch with a typo before --": Case(["launch", "-n", "2", "--max-restart", "1", "--", "train", TEAM], ["launch"]),
    "negative restarts": Case(
        ["launch", "-n", "2", "--max-restarts", "-1", "--", "train", TEAM], ["--max-restarts", "0 or more"]
    ),
    "launch with a quote that is not closed": Case(
        ["launch", "-n", "2", "--mpirun-options", "'", "--", "train", TEAM],
        ["--mpirun-options", "no closing quotation"],
    ),
    "launch of a plan": Case(["launch", "-n", "2", "--", "train", TEAM, "--plan"], ["--plan", "leave launch out"]),
    "launch that resumes nothing": Case(["launch", "-n", "2", "--", "resume", "missing"], ["missing", "config.yaml"]),
    "a doctor for an unknown preset": Case(["doctor", "ltcr-cartpole-9-2"], ["did you mean ltcr-cartpole-9-1"]),
    "a doctor for nobody": Case(["doctor", "-n", "0"], ["-n", "at least 1"]),
    "a watch without a rhythm": Case(["watch", "run", "--every", "0"], ["--every", "0.1"]),
    "a watch over what is missing": Case(["watch", "missing", "--once"], ["missing", "config.yaml"]),
    "an export for nobody": Case(["export", "run"], ["--csv", "--tensorboard", "--safetensors"]),
    "an export of what is missing": Case(["export", "missing", "--csv"], ["missing", "config.yaml"]),
    "a team change of cA3C": Case(["resume", "pong", "--agents", "2"], ["--agents", "ca3c"]),
    "who stays, of a team that does not change": Case(["resume", "run", "--keep", "0"], ["--keep", "--agents"]),
    "what new ones know, of a team that does not change": Case(
        ["resume", "run", "--new-agents", "clone-best"], ["--new-agents", "--agents"]
    ),
    "resume to a frame that is behind": Case(["resume", "long", "--frames", "300"], ["--frames: 300", "frame 400"]),
    "resume of a task to a frame that is behind": Case(
        ["resume", "pong", "--frames", "300"], ["--frames: 300", "frame 2000000"], ranks=9
    ),
    "a change of team to a frame that is behind": Case(
        ["resume", "long", "--agents", "1", "--frames", "300"], ["--frames: 300", "frame 400"]
    ),
    "another team in a shared game": Case(["resume", "pair", "--agents", "3"], ["--agents", "shared game"], ranks=3),
    "a team of nobody": Case(["resume", "run", "--agents", "0"], ["--agents", "at least 1"]),
    "a team on other ranks": Case(["resume", "run", "--agents", "3"], ["--agents: 3", "mpirun -n 3"]),
    "who stays as no list": Case(["resume", "run", "--agents", "1", "--keep", "0;1"], ["--keep", "0,2"]),
    "newcomers of another kind": Case(
        ["resume", "run", "--agents", "1", "--new-agents", "old"], ["new-agents", "fresh"]
    ),
    "status of what is missing": Case(["status", "missing"], ["missing", "status.json"]),
    "status of strange contents": Case(["status", "damaged"], ["damaged", "status.json"]),
    "status of two runs": Case(["status", "run", "run"], ["run"]),
    "verify of what is missing": Case(["verify", "missing"], ["missing", "config.yaml"]),
    "bench of an unknown part": Case(["bench", "speed"], ["bench: speed", "env, learn, comm, train"]),
    "bench of an exchange alone": Case(["bench", "comm"], ["bench: comm", "mpirun -n 4"]),
    "bench in no time": Case(["bench", "env", "--seconds", "0"], ["--seconds: 0"]),
    "bench without repeats": Case(["bench", "env", "--repeats", "0"], ["--repeats: 0"]),
    "bench of the other paper": Case(["bench", "learn", "--preset", "small-a3c-pong"], ["--preset", "ca3c", "LTCR"]),
    "bench of an unknown preset": Case(["bench", "learn", "--preset", "x"], ["x: no such preset"]),
    "bench of a training within a round": Case(["bench", "train", "--frames", "15"], ["frames", "15"]),
    "presets with a word too many": Case(["presets", "all"], ["all"]),
}


def _dict_environment(**kwargs: Any) -> Any:
    import gymnasium
    import numpy as np

    class DictEnv(gymnasium.Env):
        observation_space = gymnasium.spaces.Dict({"x": gymnasium.spaces.Box(0, 1, (2,), np.float32)})
        action_space = gymnasium.spaces.Discrete(2)

    return DictEnv()


def lay_out(folder: Path) -> None:
    """Files, a directory that is in use, a run, and one whose files are damaged."""
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    os.mkfifo(folder / "pipe")
    for name in ("folder", "old", "run", "long", "damaged", "pong", *BATTLES):
        (folder / name).mkdir()
    (folder / "old" / "results.txt").write_text("mine")
    for name in ("run", "long"):
        (folder / name / "config.yaml").write_text("frames: 100\ntransfer: {method: none, revisit: 1, digest: 0}\n")
    for name in ("long/checkpoints/step_000000400", "pong/checkpoints/pong/step_002000000"):
        (folder / name).mkdir(parents=True)
    (folder / "pong" / "config.yaml").write_text(options.preset_path("a3c-pong").read_text())
    for name, rules in BATTLES.items():
        env = f"{{id: mpi_ltcr/SpaceBattle-v0, shared: true, kwargs: {{rules: {{{rules}}}}}}}"
        (folder / name / "config.yaml").write_text(f"env: {env}\n")
    (folder / "damaged" / "config.yaml").write_bytes(b"\xff\xfe")
    (folder / "damaged" / "status.json").write_text('{"frames": 3}')


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the command lines are given; none of them may change it."""
    made = tmp_path_factory.mktemp("cli")
    lay_out(made)
    return made


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In that folder, without a launcher, and with a job that must not start."""
    import gymnasium

    def started(*asked: Any, **options: Any) -> None:
        raise AssertionError(f"a job was started: {asked}")

    if "tests/Dict-v0" not in gymnasium.registry:
        gymnasium.register("tests/Dict-v0", entry_point=_dict_environment)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(cli, "run_job", started)
    for name in [name for name in os.environ if name.startswith(("PMI", "OMPI_", "SLURM_"))]:
        monkeypatch.delenv(name)
    return folder


@pytest.mark.fault("E37", "a bad command line or configuration: one line, exit code 2, nothing written")
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_it_is_refused_in_one_line_that_names_the_field(
    case: Case, here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PMI_SIZE", str(case.ranks))
    before, start = tree(here), time.process_time()
    with pytest.raises(SystemExit) as end:
        cli.main(case.argv)
    seconds = time.process_time() - start
    out, err = capfd.readouterr()
    assert end.value.code == 2
    assert err.startswith("mpi-ltcr: error: ")
    assert err.count("\n") == 1, err
    assert err.endswith("\n")
    assert [words for words in case.says if words not in err] == [], err
    assert out == ""
    assert tree(here) == before
    assert seconds < 2


def test_there_are_at_least_sixty_bad_command_lines() -> None:
    assert len(CASES) >= 60


def test_only_the_first_rank_complains_but_all_of_them_end(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PMI_SIZE", "2")
    monkeypatch.setenv("PMI_RANK", "1")
    with pytest.raises(SystemExit) as end:
        cli.main(["train", TEAM, "--agent.atoms", "1"])
    assert end.value.code == 2
    assert capfd.readouterr() == ("", "")


def test_the_same_harness_lets_a_good_command_line_through(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the refusals above would prove nothing."""
    monkeypatch.setenv("PMI_SIZE", "2")
    with pytest.raises(AssertionError, match="a job was started"):
        cli.main(["train", TEAM, "--agent.lr", "1e-3", "--agent.vmin", "-5", "--out", "new/run", "--seed", "3"])
    assert not (here / "new").exists()


# Real processes


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@pytest.mark.fault("E37", "the same by a whole process, below two seconds of the core")
@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["train", ALONE, "--frmes", "100"], "did you mean frames?"),
        (["train", ALONE, "--agent.atoms", "1"], "agent.atoms"),
        (["train", ALONE, "--env.id", "Pendulum-v1"], "env.id"),
        (["train", "--config", "bomb.yaml"], "aliases"),
        (["train", "--config", "long.yaml"], "bytes"),
        (["train", ALONE, "--out", "old"], "exists already"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_a_real_process_refuses_within_two_seconds_of_cpu(folder: Path, argv: list[str], says: str) -> None:
    before, used = tree(folder), cpu_seconds()
    done = subprocess.run(
        [sys.executable, "-m", "mpi_ltcr", *argv], cwd=folder, capture_output=True, text=True, timeout=20, check=False
    )
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert cpu_seconds() - used < 2
    assert tree(folder) == before


LARGE = r"for 2 rank\(s\) on this node"


@pytest.mark.mpi
@pytest.mark.fault("E37", "more than a node can hold: refused before anything is made")
@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([TEAM, "--agent.atoms", "1000000000"], f"agent.hidden, agent.atoms: networks of 258000017152 param.*{LARGE}"),
        ([TEAM, "--agent.hidden", "[1000000000]"], f"agent.hidden, agent.atoms: .*{LARGE}"),
        ([TEAM, "--agent.hidden", "[1000000000000, 1000000000000]"], f"agent.hidden, agent.atoms: .*{LARGE}"),
        ([TEAM, "--agent.replay_capacity", "4000000000000000000"], "agent.replay_capacity: 4000000000000000000 "),
        ([WORKERS, "--workers", "1", "--agent.lstm", "1000000000"], f"agent.hidden, agent.lstm: .*{LARGE}"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_what_no_node_can_hold_is_refused_before_it_is_made(mpirun: Any, tmp_path: Path, argv: Any, says: str) -> None:
    done = mpirun(2, ["-m", "mpi_ltcr", "train", *argv, "--out", str(tmp_path / "run")])
    assert done.rc == 2
    assert re.fullmatch(rf"mpi-ltcr: error: {says}.*\n", done.err), done.err
    assert not (tmp_path / "run").exists()


def test_a_plan_of_what_no_node_can_hold_tells_its_size(folder: Path) -> None:
    argv = [sys.executable, "-m", "mpi_ltcr", "train", ALONE, "--agent.hidden", "[1000000, 1000000]", "--plan"]
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "1000108000102 parameters" in done.stdout


@pytest.mark.mpi
def test_under_mpirun_the_line_is_printed_once(mpirun: Any, tmp_path: Path) -> None:
    done = mpirun(2, ["mpi-ltcr", "train", TEAM, "--transfer.cycle", "7", "--out", str(tmp_path / "run")], timeout=20)
    assert done.rc == 2
    assert done.err.count("transfer.cycle: 7") == 1
    assert "Traceback" not in done.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "argv",
    [
        ["--help"],
        ["--version"],
        ["presets"],
        ["train", "--help"],
        ["train", ALONE, "--frmes", "1"],
        ["train", ALONE, "--env.id", "Pendulum-v1"],
        ["train", ALONE, "--print_config"],
        ["status", "missing"],
    ],
    ids=" ".join,
)
def test_neither_help_nor_a_refusal_waits_for_torch(argv: list[str], tmp_path: Path) -> None:
    script = """
import sys
from mpi_ltcr import cli, options
try:
    cli.main(sys.argv[1:])
except SystemExit as end:
    assert end.code in (None, 0, 2), end.code
heavy = sorted({"torch", "mpi4py.MPI"} & set(sys.modules))
sys.exit(f"imported {heavy}" if heavy else 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, *argv], cwd=tmp_path, capture_output=True, text=True, timeout=20, check=False
    )
    assert done.returncode == 0, done.stderr
