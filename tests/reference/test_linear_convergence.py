"""LTCR section 3.1 with linear function approximation: W_j -> W_i under distillation, and when it does not."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

torch.set_num_threads(1)
sys.path.insert(0, str(Path(__file__).parents[2] / "analysis"))
linear = importlib.import_module("linear_convergence")

ATOMS = 5


def teacher_and_lesson(vectors: int, varied: int, seed: int = 1) -> tuple:
    generator = torch.Generator().manual_seed(seed)
    teacher = linear.linear_net(ATOMS, generator)
    return teacher, linear.draw_vectors(vectors, generator, varied), linear.draw_vectors(50, generator)


def blank_student() -> torch.nn.Module:
    student = linear.linear_net(ATOMS, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.zero_()
    return student


def plain_features(vectors: tuple) -> np.ndarray:
    """(s, 1) in the action's block, written out."""
    rows = []
    for obs, action in zip(vectors.obs.numpy(), vectors.action.tolist(), strict=True):
        row = np.zeros(10)
        row[5 * action : 5 * action + 4] = obs
        row[5 * action + 4] = 1
        rows.append(row)
    return np.array(rows)


def plain_weights(net: torch.nn.Module) -> np.ndarray:
    """W (K, d), not centred: the response to each unit vector, one action at a time."""
    weight, bias = net.head.weight.detach().numpy(), net.head.bias.detach().numpy()
    columns = []
    for action in range(2):
        atoms = slice(ATOMS * action, ATOMS * (action + 1))
        columns += [*weight[atoms].T, bias[atoms]]
    return np.array(columns).T


def softmax(rows: np.ndarray) -> np.ndarray:
    weights = np.exp(rows - rows.max(1, keepdims=True))
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize("seed", [1, 2])
def test_weights_and_answers_reach_the_teachers_where_features_span_the_space(seed: int) -> None:
    table = linear.experiment(vectors=64, varied=4, steps=1500, step_size=1.0, atoms=ATOMS, seed=seed)
    assert table["rank"].iloc[0] == table["features"].iloc[0] == 10
    start, end = table.iloc[0], table.iloc[-1]
    assert start["distance"] > 1
    assert start["kl"] > 1e-2
    assert end["distance"] < 1e-10
    assert abs(end["kl"]) < 1e-15
    assert abs(end["kl_fresh"]) < 1e-15


@pytest.mark.parametrize(("vectors", "varied", "seed"), [(64, 2, 1), (6, 4, 4)])  # seed 4: six vectors well apart
def test_only_the_answers_on_the_lesson_agree_where_features_do_not_span(vectors: int, varied: int, seed: int) -> None:
    table = linear.experiment(vectors=vectors, varied=varied, steps=1500, step_size=1.0, atoms=ATOMS, seed=seed)
    assert table["rank"].iloc[0] == 6
    end = table.iloc[-1]
    assert abs(end["kl"]) < 1e-14
    assert end["kl_fresh"] > 1e-2
    assert end["distance"] == pytest.approx(end["limit"], rel=1e-6)
    assert end["limit"] > 1


def test_what_remains_is_the_teachers_part_outside_the_span_of_the_lesson() -> None:
    teacher, lesson, _ = teacher_and_lesson(64, 2)
    student = blank_student()
    linear.mimic(teacher, student, lesson, lesson, 1000, 1.0)
    centred = plain_weights(teacher) - plain_weights(teacher).mean(0)
    _, singular, rows = np.linalg.svd(plain_features(lesson))
    basis = rows[: np.sum(singular > 1e-9)]
    np.testing.assert_allclose(plain_weights(student), centred @ basis.T @ basis, atol=1e-7)


def test_the_student_stays_centred_over_atoms_without_being_told() -> None:
    teacher, lesson, fresh = teacher_and_lesson(20, 4)
    student = blank_student()
    linear.mimic(teacher, student, lesson, fresh, 50, 1.0)
    assert abs(plain_weights(teacher).sum(0)).max() > 0.1
    np.testing.assert_allclose(plain_weights(student).sum(0), 0, atol=1e-14)


def test_one_step_is_the_printed_gradient_of_equation_6() -> None:
    teacher, lesson, fresh = teacher_and_lesson(20, 4)
    student = blank_student()
    linear.mimic(teacher, student, lesson, fresh, 0, 0.5)  # step 0 is recorded, then one step is taken
    features = plain_features(lesson)
    apart = softmax(np.zeros((20, ATOMS))) - softmax(features @ plain_weights(teacher).T)
    np.testing.assert_allclose(plain_weights(student), -0.5 * apart.T @ features / 20, atol=1e-15)


def test_a_constant_on_all_of_a_teachers_atoms_changes_no_distance() -> None:
    teacher, lesson, fresh = teacher_and_lesson(30, 4)
    before = linear.mimic(teacher, blank_student(), lesson, fresh, 30, 1.0)
    with torch.no_grad():
        teacher.head.bias += 3.0
        teacher.head.weight.view(2, ATOMS, 4)[:, :, 1] -= 5.0
    after = linear.mimic(teacher, blank_student(), lesson, fresh, 30, 1.0)
    for column in ("distance", "kl", "kl_fresh"):
        np.testing.assert_allclose(after[column], before[column], rtol=1e-9, atol=1e-14)


def test_the_kl_never_rises_on_the_way_below_the_bound_on_the_step() -> None:
    teacher, lesson, fresh = teacher_and_lesson(30, 4)
    step = 0.99 * linear.largest_step(torch.from_numpy(plain_features(lesson)))
    track = linear.mimic(teacher, blank_student(), lesson, fresh, 150, step)
    assert (np.diff(track["kl"]) < 1e-15).all()


def test_a_step_that_is_not_small_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert linear.main(["--step-size", "50", "-o", str(tmp_path / "x.png")]) == 2
    told = capsys.readouterr().err
    assert "--step-size 50.0" in told
    assert told.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_the_script_writes_the_figure_and_both_cases_as_csv(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    figure = tmp_path / "claim.png"
    assert linear.main(["--steps", "100", "-o", str(figure)]) == 0
    assert figure.stat().st_size > 10_000
    table = pd.read_csv(figure.with_suffix(".csv"))
    assert table.groupby("case")["step"].max().tolist() == [100, 100]
    assert set(table["rank"]) == {6, 10}
    told = capsys.readouterr().out
    assert str(figure) in told
    assert str(figure.with_suffix(".csv")) in told
