"""What is averaged in CDRL Fig. 5: who plays, who looks on, and through which alignment network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ca3c_helpers import POLE, POLE3, certificate, save, saved

from mpi_ltcr import assembly_ca3c as assembly
from mpi_ltcr import options
from mpi_ltcr.archive.rundir import RunDirectory
from mpi_ltcr.config import AlignConfig, CertificateConfig, ConfigError
from mpi_ltcr.nets.alignment import AlignmentNetwork
from mpi_ltcr.nets.flat import flatten
from mpi_ltcr.programs.actions import lectures
from mpi_ltcr.programs.listening import listen, load_expert
from mpi_ltcr.seeds import SeedTree

torch.set_num_threads(1)


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    return certificate(tmp_path / "teacher", seed=7)


def through(omega: np.ndarray, logits: np.ndarray, actions: int = 3) -> np.ndarray:
    """F with these parameters."""
    network = AlignmentNetwork(
        num_teacher_actions=logits.shape[1], num_student_actions=actions, generator=torch.Generator()
    )
    flatten(network).values.copy_(torch.from_numpy(omega))
    with torch.no_grad():
        return network(torch.from_numpy(logits)).numpy()


def test_the_teacher_plays_its_own_task_and_looks_on_at_the_students_play(teacher, tmp_path):
    task = {**POLE3, "teachers": [{"task": "pole", "checkpoint": str(teacher)}]}
    run = certificate(tmp_path / "run", tasks=[task])
    (lecture,) = lectures(run, None, 60, 4)
    pole, pole3 = load_expert(teacher, "pole", ""), load_expert(run, "pole3", "")
    np.testing.assert_array_equal(lecture.own, listen(pole, [], 60, SeedTree(4))[0])
    said, raw = listen(pole3, [pole], 60, SeedTree(4))
    np.testing.assert_array_equal(lecture.said, said)
    np.testing.assert_array_equal(lecture.raw, raw)
    assert (lecture.teacher, lecture.student, lecture.mapped) == ("pole", "pole3", True)
    assert (lecture.teacher_actions, lecture.student_actions) == (["0", "1"], ["0", "1", "2"])


def test_each_teacher_is_seen_through_its_own_alignment_network(teacher, tmp_path):
    """The student's server holds them one after the other, behind the student's own network."""
    collaborative, certified = {"task": "pole"}, {"task": "pole", "checkpoint": str(teacher)}
    tasks = [POLE, {**POLE3, "teachers": [collaborative, certified]}]
    run = certificate(tmp_path / "run", tasks=tasks)
    one, two = lectures(run, "pole3", 40, 1)
    store = saved(run, "pole3")["store"]
    omegas = store["values"][store["network"] :].reshape(2, -1)
    assert not np.array_equal(*omegas)
    for lecture, omega, source in ((one, omegas[0], run), (two, omegas[1], teacher)):
        np.testing.assert_array_equal(lecture.own, listen(load_expert(source, "pole", ""), [], 40, SeedTree(1))[0])
        np.testing.assert_allclose(lecture.aligned, through(omega, lecture.raw), atol=1e-6)
    assert not np.allclose(one.own, two.own)


def test_without_a_network_the_teacher_is_shown_as_it_is(teacher, tmp_path):
    given = {"task": "pole", "checkpoint": str(teacher), "align": "identity", "layer": "policy"}
    run = certificate(tmp_path / "run", tasks=[{**POLE, "teachers": [given]}])
    (lecture,) = lectures(run, None, 20, 1)
    assert not lecture.mapped
    np.testing.assert_array_equal(lecture.aligned, lecture.raw)
    assert not np.allclose(lecture.raw, lecture.said)


@pytest.mark.parametrize("of", ["the student's run", "the alignment's run"])
def test_an_alignment_trained_offline_is_taken_from_where_it_was_trained(of, teacher, tmp_path):
    expert = certificate(tmp_path / "expert", seed=6, tasks=[POLE3])
    ends = CertificateConfig(str(teacher), "pole"), CertificateConfig(str(expert), "pole3")
    offline = RunDirectory(tmp_path / "offline")
    offline.create(options.to_yaml(AlignConfig(teacher=ends[0], expert=ends[1])), {})
    network = AlignmentNetwork(num_teacher_actions=2, num_student_actions=3, generator=torch.Generator().manual_seed(3))
    omega = flatten(network).values.numpy()
    save(offline.checkpoints, 10, {assembly.ALIGNMENT_FILE: {"values": omega}})
    run = offline.root
    if of == "the student's run":
        given = {"task": "pole", "checkpoint": str(teacher), "alignment": str(offline.root)}
        run = certificate(tmp_path / "run", tasks=[{**POLE3, "teachers": [given]}])
    (lecture,) = lectures(run, None, 30, 2)
    np.testing.assert_allclose(lecture.aligned, through(omega, lecture.raw), atol=1e-6)
    assert (lecture.teacher, lecture.student) == ("pole", "pole3")


@pytest.mark.parametrize("what", ["nothing", "LTCR", "no teachers", "several students", "damage"])
def test_what_has_no_student_with_a_teacher_is_refused_in_one_line(what, teacher, tmp_path):
    run, says = teacher, "the students of"
    if what == "nothing":
        run, says = tmp_path, "not a run directory"
    if what == "LTCR":
        says = "is a run of ltcr"
        (run / "config.yaml").write_text(options.to_yaml(options.load(["ltcr-cartpole-9-1"])[0]))
    if what == "several students":
        tasks = [{**POLE, "teachers": [{"task": "pole3"}]}, {**POLE3, "teachers": [{"task": "pole"}]}]
        run, says = certificate(tmp_path / "run", tasks=tasks), "are: pole, pole3"
    if what == "damage":
        run = certificate(
            tmp_path / "run", tasks=[{**POLE, "teachers": [{"task": "pole", "checkpoint": str(teacher)}]}]
        )
        (file,) = run.glob("checkpoints/pole/step_*/server.h5")
        file.write_bytes(file.read_bytes()[:-1])
        says = "server.h5"
    with pytest.raises(ConfigError) as error:
        list(lectures(run, None, 10, 1))
    assert says in str(error.value)
    assert "\n" not in str(error.value)
