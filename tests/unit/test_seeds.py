"""The seed tree: numpy's own spawning is the truth that it is compared with."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpi_ltcr.seeds import PURPOSES, TEAM, SeedTree

FIRST_PURPOSES = (
    "weights",
    "env",
    "explore",
    "replay",
    "upload",
    "subset",
    "eval_env",
    "eval_policy",
    "probe",
    "noise",
)
"""As they were in version 0.1.0. Never change this line: the runs of that version could not be repeated any more."""


def child(parent: np.random.SeedSequence, index: int) -> np.random.SeedSequence:
    return parent.spawn(index + 1)[index]


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(0, 2**63), st.integers(0, 5), st.sampled_from(PURPOSES), st.integers(0, 20))
def test_a_node_is_the_one_that_numpy_spawns_along_the_same_path(seed, agent, purpose, counter):
    path = [agent, PURPOSES.index(purpose), counter]
    node = np.random.SeedSequence(seed)
    for index in path:
        node = child(node, index)
    expected = np.random.default_rng(node).integers(2**62, size=8)
    assert (SeedTree(seed).generator(agent, purpose, counter).integers(2**62, size=8) == expected).all()


def test_no_two_nodes_of_a_run_share_their_randomness():
    tree = SeedTree(1)
    nodes = [(a, p, *c) for a in (0, 1, 2, TEAM) for p in PURPOSES for c in [(), *((k,) for k in range(50))]]
    draws = {tree.generator(*node).integers(2**62) for node in nodes}
    assert len(draws) == len(nodes)


def test_another_seed_changes_every_node():
    one, two = SeedTree(1), SeedTree(2)
    for purpose in PURPOSES:
        assert one.integer(0, purpose) != two.integer(0, purpose)
        assert one.generator(0, purpose).random() != two.generator(0, purpose).random()


def test_asking_twice_gives_the_same_generator_in_its_first_state():
    tree = SeedTree(3)
    first = tree.generator(1, "env").random(100)
    assert (tree.generator(1, "env").random(100) == first).all()


def test_integer_seeds_fit_in_31_bits_and_use_all_of_them():
    seeds = np.array([SeedTree(5).integer(0, "env", episode) for episode in range(2000)])
    assert seeds.min() >= 0
    assert seeds.max() < 2**31
    assert len(set(seeds.tolist())) == len(seeds)
    for bit in range(31):
        assert 0.45 < (seeds >> bit & 1).mean() < 0.55, bit


def test_the_tree_is_the_same_in_another_process_whatever_its_hash_seed():
    script = "from mpi_ltcr.seeds import SeedTree; print(SeedTree(9).integer(1, 'replay', 4))"
    for hash_seed in ("1", "2"):
        told = subprocess.run(
            [sys.executable, "-c", script],
            env={"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert int(told.stdout) == SeedTree(9).integer(1, "replay", 4)


def test_purposes_keep_their_places():
    assert PURPOSES[: len(FIRST_PURPOSES)] == FIRST_PURPOSES
    assert len(set(PURPOSES)) == len(PURPOSES)


def test_a_purpose_without_a_name_is_refused():
    with pytest.raises(ValueError, match="tuple"):
        SeedTree(1).generator(0, "no such purpose")
