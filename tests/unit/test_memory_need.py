"""What memories come to is computed before they are made, and compared with what the node can give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mpi_ltcr import assembly, assembly_agents, assembly_ca3c, options
from mpi_ltcr.comm.node import available_memory
from mpi_ltcr.comm.roles import Role
from mpi_ltcr.config import A3CConfig, ActorCriticConfig, AgentConfig, C51Config, Config
from mpi_ltcr.interfaces import EnvSpec, Transition
from mpi_ltcr.memory.dense import DenseStore, columns_of
from mpi_ltcr.memory.frame_ring import SEGMENT_ROWS, ring_bytes
from mpi_ltcr.nets.flat import COUNTLESS

ATARI = EnvSpec((4, 84, 84), np.dtype(np.uint8), 18, 1 / 255, stacked=True)
VECTOR = EnvSpec((4,), np.dtype(np.float32), 2)


def test_a_million_atari_transitions_fit_into_8_gb() -> None:
    bytes_ = ring_bytes(capacity=1_000_000, columns=columns_of(ATARI), spec=ATARI)
    assert 7.056e9 < bytes_ < 7.2e9  # 7056 bytes of each frame alone are 7.056 GB


def test_the_number_is_what_the_arrays_of_a_full_memory_have() -> None:
    plain = DenseStore(capacity=1000, spec=VECTOR).ring
    assert ring_bytes(capacity=1000, columns=columns_of(VECTOR), spec=VECTOR) == sum(
        a.nbytes for a in plain.data.values()
    )

    spec = ATARI._replace(obs_shape=(4, 10, 10))
    capacity = 2 * SEGMENT_ROWS
    store, rng = DenseStore(capacity=capacity, spec=spec), np.random.default_rng(0)
    film = rng.integers(256, size=(capacity + SEGMENT_ROWS + 3, 10, 10), dtype=np.uint8)
    for t in range(capacity + SEGMENT_ROWS - 1):  # one row short of a segment that could leave
        store.add(Transition(film[t : t + 4], 0, 0.0, 0.9, film[t + 1 : t + 5]))
    segments = store.ring.segments.values()
    held = sum(s.frames[: s.shown].nbytes + sum(c.nbytes for c in s.columns.values()) for s in segments)
    assert ring_bytes(capacity=capacity, columns=columns_of(spec), spec=spec) == pytest.approx(held, rel=0.005)


def test_every_rank_of_an_atari_team_keeps_m0_and_only_the_first_one_of_a_vector_team() -> None:
    config, _ = options.load(["ltcr-zaxxon-9-1"])
    first, second = (assembly.memory_need(config, ATARI, Role(i, i, i == 0)) for i in (0, 1))
    assert first == second
    alone, _ = options.load(["ltcr-zaxxon-alone"])
    assert 0.3e9 < first - assembly.memory_need(alone, ATARI, Role(0, 0, True)) < 0.4e9
    first, second = (assembly.memory_need(Config(), VECTOR, Role(i, i, i == 0)) for i in (0, 1))
    assert first - second == Config().transfer.memory_size * (4 * 4 + 8)


def test_what_does_not_fit_is_told_with_its_bytes_and_a_capacity_that_fits() -> None:
    config, _ = options.load(["ltcr-zaxxon-9-1"])
    need = sum(assembly.memory_need(config, ATARI, Role(i, i, i == 0)) for i in (0, 1))
    assert assembly.memory_problem(config, need, 2, need) == ""
    assert assembly.memory_problem(config, need, 2, None) == ""
    problem = assembly.memory_problem(config, need, 2, 8_000_000_000)
    assert problem.startswith(
        f"agent.replay_capacity: 1000000 transitions (and M0) come to {need} bytes for 2 agent(s)"
    )
    assert "8000000000 are available" in problem
    fitting = int(problem.split("take at most ")[1].split(",")[0])
    smaller, _ = options.load(["ltcr-zaxxon-9-1", "--agent.replay_capacity", str(fitting)])
    assert sum(assembly.memory_need(smaller, ATARI, Role(i, i, i == 0)) for i in (0, 1)) < 8_000_000_000


@pytest.mark.parametrize(
    ("settings", "spec"),
    [
        (C51Config(hidden=(7, 5), atoms=11), VECTOR),
        (C51Config(torso="linear"), VECTOR),
        (C51Config(dueling=True, noisy=0.5), VECTOR),
        (C51Config(returns="quantiles", quantiles=9), VECTOR),
        (C51Config(torso="nature"), ATARI),
        (ActorCriticConfig(hidden=(3,)), VECTOR),
    ],
    ids=["mlp", "linear", "rainbow", "quantiles", "nature", "actor-critic"],
)
def test_parameters_are_counted_as_the_network_has_them(settings: AgentConfig, spec: EnvSpec) -> None:
    net = assembly_agents.build_net(settings, spec, torch.Generator())
    assert assembly_agents.parameters_of(settings, spec) == sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(
    ("agent", "spec"),
    [
        (A3CConfig(torso="mlp", hidden=(7, 5), lstm=9), VECTOR),
        (A3CConfig(), EnvSpec((1, 42, 42), np.dtype(np.float32), 6)),
    ],
    ids=["mlp", "universe"],
)
def test_so_are_those_of_a_task(agent: A3CConfig, spec: EnvSpec) -> None:
    net = assembly_ca3c.build_network(agent, spec, torch.Generator())
    assert assembly_ca3c.parameters_of(agent, spec) == sum(p.numel() for p in net.parameters())


def test_networks_that_no_machine_holds_are_counted_all_the_same() -> None:
    wide, wider = C51Config(hidden=(10**6, 10**6)), C51Config(hidden=(10**12, 10**12))
    assert assembly_agents.parameters_of(wide, VECTOR) == 5 * 10**6 + 10**6 * (10**6 + 1) + 102 * (10**6 + 1)
    assert assembly_agents.parameters_of(wider, VECTOR) == COUNTLESS
    assert assembly_ca3c.parameters_of(A3CConfig(torso="mlp", lstm=10**12), VECTOR) == COUNTLESS


def node(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


MEMINFO = {"proc/meminfo": "MemTotal: 9000 kB\nMemAvailable:    4000 kB\nSwapFree: 1 kB\n"}
SECOND = {"proc/self/cgroup": "0::/slurm/job_7/step_0\n", "sys/fs/cgroup/slurm/job_7/memory.max": "3000000\n"}
FIRST = {"proc/self/cgroup": "9:cpu:/\n4:memory:/box\n", "sys/fs/cgroup/memory/box/memory.limit_in_bytes": "2000000"}


@pytest.mark.parametrize(
    ("files", "bytes_"),
    [
        ({}, None),
        (MEMINFO, 4_096_000),
        ({**MEMINFO, **SECOND, "sys/fs/cgroup/slurm/job_7/memory.current": "500000\n"}, 2_500_000),
        ({**MEMINFO, **FIRST, "sys/fs/cgroup/memory/box/memory.usage_in_bytes": "2500000"}, 0),
        ({**MEMINFO, "sys/fs/cgroup/memory.max": "max\n", "sys/fs/cgroup/memory.current": "7"}, 4_096_000),
        ({"proc/meminfo": "nonsense", "proc/self/cgroup": "nonsense"}, None),
    ],
    ids=["nothing", "a node", "a job's group", "a full group", "no limit", "nonsense"],
)
def test_what_a_node_can_give_is_the_least_of_what_it_has_and_its_groups_allow(
    tmp_path: Path, files: dict[str, str], bytes_: int | None
) -> None:
    assert available_memory(node(tmp_path, files)) == bytes_


def test_this_node_has_some() -> None:
    available = available_memory()
    assert available is not None
    assert 0 < available < 1 << 50
