"""What the tests of cA3C share: tiny configurations, certificated teachers made without training, saved states."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
import toy_envs  # noqa: F401  (registers its environments)
import yaml

from mpi_ltcr import assembly_ca3c as assembly
from mpi_ltcr import options
from mpi_ltcr.archive import checkpoint
from mpi_ltcr.archive.rundir import RunDirectory
from mpi_ltcr.config import CA3CConfig
from mpi_ltcr.interfaces import State

TESTS = Path(__file__).resolve().parent
TOYS = {"PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])}
"""Environment variables of a job that plays `toy_envs`."""

POLE = {"name": "pole", "env": {"id": "mpi_ltcr/CartPole15-v0"}}
POLE3 = {"name": "pole3", "env": {"id": "toy_envs:Threeway-v0"}}
TINY: dict[str, Any] = {
    "program": "ca3c",
    "name": "tiny",
    "frames": 300,
    "workers": 1,
    "agent": {"torso": "mlp", "hidden": [16], "lstm": 16, "rollout": 10, "lr": 0.01},
    "tasks": [POLE],
    "checkpoint": {"every": 100},
    "log": {"publish_s": 600.0},
}
"""A training of a second."""


def config_file(folder: Path, file: str = "config.yaml", /, **changed: Any) -> Path:
    """TINY with some fields changed, as a file for `train --config`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / file
    fields = json.loads(json.dumps({**TINY, **changed}))  # nothing twice: the dumper would write aliases
    path.write_text(yaml.safe_dump(fields, sort_keys=False))
    return path


def config_of(folder: Path, **changed: Any) -> CA3CConfig:
    """The same, loaded as the program loads it."""
    config = options.load_file(config_file(folder, **changed))
    assert isinstance(config, CA3CConfig)
    return config


STEEP = np.float32(1000)
"""Times the policy head of a fresh network: those are uniform for all that a test can see."""


def steepen(values: np.ndarray, config: CA3CConfig, task: int) -> None:
    """Give the network at the beginning of a flat vector a policy that is not uniform."""
    net = assembly.build_network(config.agent, assembly.spec_of(config.tasks[task].env), torch.Generator())
    values[slices(net)["policy.weight"]] *= STEEP


def certificate(root: Path, frames: int = 100, seed: int = 5, **changed: Any) -> Path:
    """A run directory such as a training leaves behind, for each of its tasks a checkpoint of a network."""
    run = RunDirectory(root)
    config = config_of(root.parent / f"{root.name}-source", seed=seed, **changed)
    run.create(options.to_yaml(config), {})
    for number, task in enumerate(config.tasks):
        teachings = [assembly.load_teaching(config, task, teacher) for teacher in task.teachers]
        store = assembly.build_store(config, number, teachings)
        steepen(store.values, config, number)
        save(run.task_checkpoints(task.name), frames, {assembly.SERVER_FILE: {"store": store.state()}})
    run.unlock()
    return root


def save(checkpoints: Path, frames: int, files: dict[str, State]) -> Path:
    """A whole checkpoint of these files."""
    draft = checkpoint.begin(checkpoints, frames)
    entries = [checkpoint.write_file(draft, name, state) for name, state in files.items()]
    return checkpoint.commit(checkpoints, frames, entries, {"world_size": 1, "ranks": []})


def saved(run: Path, task: str, name: str = assembly.SERVER_FILE) -> State:
    """A file of the newest checkpoint of a task, which must be whole."""
    folder, refused = checkpoint.newest_whole(run / "checkpoints" / task)
    assert refused == []
    return checkpoint.load_file(folder / name)


def differences(one: State, two: State) -> list[str]:
    """Paths of the leaves that are not equal to the last bit."""
    first, second = dict(checkpoint.flatten(one)), dict(checkpoint.flatten(two))

    def same(a: Any, b: Any) -> bool:
        if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
            return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
        return type(a) is type(b) and bool(a == b)

    return [
        path
        for path in sorted(first | second)
        if path not in first or path not in second or not same(first[path], second[path])
    ]


def slices(net: torch.nn.Module) -> dict[str, slice]:
    """Where each parameter of a network stands in its flat vector."""
    found, start = {}, 0
    for name, parameter in net.named_parameters():
        found[name] = slice(start, start + parameter.numel())
        start += parameter.numel()
    return found
