"""The first stage of CDRL Fig. 6a: both experts' logits on the same states, and F trained between them."""

from __future__ import annotations

import dataclasses
import json
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ca3c_helpers import POLE3, TOYS, certificate

from mpi_ltcr import envs, options
from mpi_ltcr.config import AlignConfig, CertificateConfig, ConfigError
from mpi_ltcr.formulas.distillation import alignment_loss
from mpi_ltcr.programs import align
from mpi_ltcr.seeds import SeedTree

torch.set_num_threads(1)


def config_for(tmp_path: Path, **changed: Any) -> AlignConfig:
    """Between an expert of CartPole and one of three actions."""
    runs = [certificate(tmp_path / "teacher"), certificate(tmp_path / "expert", seed=6, tasks=[POLE3])]
    ends = [CertificateConfig(str(run), task) for run, task in zip(runs, ("pole", "pole3"), strict=True)]
    settings = {"frames": 200, "batch": 20, "epochs": 20, "lr": 1e-3, **changed}
    return AlignConfig(teacher=ends[0], expert=ends[1], **settings)


def test_both_experts_see_the_states_of_the_students_task_each_with_its_own_recurrent_state(tmp_path):
    """Against a plain loop: the second expert plays, the first one looks on, both forget at the end of an episode."""
    teacher, expert = align.load_experts(config_for(tmp_path))
    pairs = align.collect(teacher, expert, 80, SeedTree(3))
    assert (pairs.teacher.shape, pairs.student.shape) == ((80, 2), (80, 3))

    env, rng = envs.make(expert.env.id, expert.env.kwargs), SeedTree(3).generator(0, "explore")
    episode, row = 0, 0
    while row < 80:
        obs, _ = env.reset(seed=SeedTree(3).integer(0, "env", episode))
        path, over = [obs], False
        while not over and row < 80:
            seen = [
                torch.from_numpy(np.stack(path) * np.asarray(e.spec.obs_scale, np.float32)) for e in (teacher, expert)
            ]
            with torch.no_grad():
                logits = [
                    e.net.unroll(x, e.net.initial_state()).policy[-1].numpy()
                    for e, x in zip((teacher, expert), seen, strict=True)
                ]
            np.testing.assert_allclose(pairs.teacher[row], logits[0], atol=1e-4)
            np.testing.assert_allclose(pairs.student[row], logits[1], atol=1e-4)
            masses = np.exp(pairs.student[row].astype(np.float64) - pairs.student[row].max())
            obs, _, terminated, truncated, _ = env.step(int(rng.choice(3, p=masses / masses.sum())))
            path.append(obs)
            row, over = row + 1, terminated or truncated
        episode += 1
    assert episode > 1


def some_pairs(count: int = 300) -> align.Pairs:
    """The student's logits are a function of the teacher's."""
    rng = np.random.default_rng(0)
    teacher = rng.normal(size=(count, 2)).astype(np.float32)
    return align.Pairs(teacher, np.stack([teacher[:, 0], -teacher[:, 1], teacher.prod(1)], 1))


def trained(tmp_path: Path, pairs: align.Pairs, **changed: Any) -> tuple[Any, np.ndarray, list[float]]:
    config = config_for(tmp_path, **changed)
    network = align.build(config, *align.load_experts(config), SeedTree(1))
    best, losses = align.train(config, network, pairs, np.random.default_rng(1))
    return network, best, losses


def test_f_learns_what_the_students_expert_would_do_and_its_best_weights_are_kept(tmp_path):
    pairs = some_pairs()
    network, best, losses = trained(tmp_path, pairs)
    assert losses[0] > 0.1
    assert min(losses) < 0.1 * losses[0]
    start = 0
    for parameter in network.parameters():
        parameter.data = torch.from_numpy(best[start : start + parameter.numel()]).view_as(parameter)
        start += parameter.numel()
    held = np.random.default_rng(1).permutation(len(pairs.teacher))[:30]  # the tenth that is held out
    with torch.no_grad():
        aligned = network(torch.from_numpy(pairs.teacher[held]))
    told = float(alignment_loss(aligned, torch.from_numpy(pairs.student[held]), 1.0))
    assert told == pytest.approx(min(losses), rel=1e-4)


def test_it_stops_when_the_held_out_loss_falls_no_more(tmp_path):
    rng = np.random.default_rng(0)
    noise = align.Pairs(*(3 * rng.normal(size=(100, actions)).astype(np.float32) for actions in (2, 3)))
    _, _, losses = trained(tmp_path, noise, epochs=60, patience=3, lr=3e-3)
    assert len(losses) < 61
    assert losses.index(min(losses)) == len(losses) - 1 - 3


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"task": "pong"}, "teacher.task: "),
        ({"checkpoint": "nowhere"}, "teacher.checkpoint: nowhere is not a run directory"),
    ],
)
def test_an_expert_that_is_not_there_is_named_with_its_field(changed, says, tmp_path):
    config = config_for(tmp_path)
    config = dataclasses.replace(config, teacher=dataclasses.replace(config.teacher, **changed))
    with pytest.raises(ConfigError, match=says):
        align.load_experts(config)


def test_experts_of_other_observations_are_refused(tmp_path):
    blind = {"name": "blind", "env": {"id": "toy_envs:Blind-v0"}}
    run = certificate(tmp_path / "blind", tasks=[blind])
    config = dataclasses.replace(config_for(tmp_path), teacher=CertificateConfig(str(run), "blind"))
    with pytest.raises(ConfigError, match=r"teacher.task: blind sees \(2,\) float32, pole3 \(4,\)"):
        align.load_experts(config)


@pytest.mark.mpi
@pytest.mark.timeout(300)
def test_a_stopped_alignment_is_preempted_and_a_resume_begins_it_anew(start, tmp_path):
    path = tmp_path / "align.yaml"
    path.write_text(options.to_yaml(config_for(tmp_path, frames=10**7)))
    run = tmp_path / "run"
    job = start(0, ["-m", "mpi_ltcr", "train", "--config", str(path), "--out", str(run)], env=TOYS)
    deadline = time.monotonic() + 100
    while not (run / "status.json").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    job.signal(signal.SIGTERM)
    done = job.finish(60)
    assert done.rc == 85, done.err
    assert json.loads((run / "status.json").read_text())["state"] == "preempted"
    job = start(0, ["-m", "mpi_ltcr", "resume", str(run), "--frames", "200"], env=TOYS)
    assert job.finish(100).rc == 0
    assert json.loads((run / "status.json").read_text())["state"] == "completed"
    assert list(run.glob("checkpoints/step_*")) != []


def test_the_pair_of_action_counts_decides_the_shape_of_f(tmp_path):
    config = config_for(tmp_path)
    network = align.build(config, *align.load_experts(config), SeedTree(1))
    assert (network.layers[0].in_features, network.layers[-1].out_features) == (2, 3)
