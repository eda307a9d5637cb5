"""The figures of cA3C from a real short run: what is drawn equals what it holds, recomputed by plain loops."""

from __future__ import annotations

import importlib
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
from ca3c_helpers import POLE, POLE3, TOYS, config_file, saved
from conftest import ROOT, Started
from matplotlib.image import imread
from scipy.special import softmax

from mpi_ltcr.programs import actions

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(240)]

sys.path.insert(0, str(ROOT / "analysis"))
task_curve, staleness, action_distributions = (
    importlib.import_module(name) for name in ("task_curve", "staleness", "action_distributions")
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CartPole teaches its cousin of three actions; three workers, two of them on the student's task."""
    folder = tmp_path_factory.mktemp("figures")
    student = {**POLE3, "workers": 2, "teachers": [{"task": "pole", "t1": 60, "t2": 120}]}
    path = config_file(folder, frames=400, tasks=[POLE, student], server="shared", name="toys")
    argv = ["-m", "mpi_ltcr", "train", "--config", str(path), "--out", str(folder / "run")]
    done = Started(3, argv, folder, TOYS).finish(150)
    assert done.rc == 0, done.err
    return folder / "run"


@pytest.fixture
def drawn(tmp_path: Path) -> Any:
    """`drawn(module, *arguments)` draws, looks at the picture and returns the CSV beside it."""

    def draw(module: Any, *arguments: Any) -> pd.DataFrame:
        figure = tmp_path / "new" / "figure.png"
        assert module.main([*map(str, arguments), "-o", str(figure)]) == 0
        picture = imread(figure)
        assert min(picture.shape[:2]) > 300
        assert len(np.unique(picture[::3, ::3, :3].sum(axis=2))) > 40  # ink in several colours, antialiased
        return pd.read_csv(figure.with_suffix(".csv"))

    return draw


def column(run: Path, log: str, table: str, name: str) -> np.ndarray:
    with h5py.File(run / "logs" / f"{log}.h5") as file:
        return file[table][name][:]


def imitate(run: Path, copy: Path, *, add: float = 0.0, rows: int | None = None, **config: Any) -> Path:
    """A copy of a run whose returns are higher, whose servers' logs are shorter, or whose configuration is another."""
    shutil.copytree(run, copy)
    for path in (copy / "logs").iterdir():
        with h5py.File(path, "r+") as file:
            file.attrs["config_json"] = json.dumps({**json.loads(file.attrs["config_json"]), **config})
            file.attrs["name"] = config.get("name", file.attrs["name"])
            if path.name.startswith("server"):
                file["returns"]["return"][:] += add
                until = file["pushes"]["frames"][:rows].max()
                for table in ("pushes", "returns"):
                    kept = (file[table]["frames"][:] <= until).sum()
                    for name in list(file[table]):
                        content = file[table][name][:kept]
                        del file[table][name]
                        file[table][name] = content
    return copy


def last_mean(run: Path, log: str, episodes: int, until: float = np.inf) -> float:
    """Of the last returns up to a step, one row after the other."""
    rows = zip(column(run, log, "returns", "frames"), column(run, log, "returns", "return"), strict=True)
    returns = [value for step, value in rows if step <= until]
    return statistics.mean(returns[-episodes:])


# -------------------- returns


def test_a_line_is_the_mean_of_the_last_episodes_of_each_run_and_its_band_their_deviation(run, drawn, tmp_path):
    other = imitate(run, tmp_path / "other", add=30.0)
    table = drawn(task_curve, run, other, run, "--episodes", 7)  # a run that is named twice counts once
    assert list(dict.fromkeys(table["label"])) == ["toys, pole", "toys, pole3"]
    assert set(table["runs"]) == {2}
    for number, task in enumerate(("pole", "pole3")):
        line = table[table["task"] == task]
        assert len(line) > 50
        for step, value in zip(line["steps"], line["return"], strict=True):
            one = last_mean(run, f"server{number:04d}", 7, step)
            assert value == pytest.approx(one + 15)
        np.testing.assert_allclose(line["sd"], statistics.stdev([0, 30]))
        np.testing.assert_allclose(line["last_return"], last_mean(run, f"server{number:04d}", 7) + 15)
        np.testing.assert_allclose(line["last_sd"], statistics.stdev([0, 30]))


def test_one_task_of_one_run_has_no_band_and_its_number_is_printed(run, drawn, capsys):
    table = drawn(task_curve, run, "--task", "pole3")
    assert set(table["task"]) == {"pole3"}
    assert table["sd"].isna().all()
    told = capsys.readouterr().out
    assert f"episodes {last_mean(run, 'server0001', 100):.2f}, n = 1" in told


def test_a_run_that_goes_on_is_drawn_as_far_as_all_runs_are(run, drawn, tmp_path):
    running = imitate(run, tmp_path / "running", rows=25)
    reached = column(running, "server0000", "pushes", "frames")[-1]
    table = drawn(task_curve, run, running, "--task", "pole")
    assert table["steps"].max() <= reached < 400


# -------------------- asynchrony


def test_staleness_throughput_and_waiting_are_those_of_the_logs(run, drawn):
    table = drawn(staleness, run)
    for number, (task, ranks) in enumerate({"pole": [0], "pole3": [1, 2]}.items()):
        panels = dict(iter(table[table["task"] == task].groupby("panel")))
        stale = column(run, f"server{number:04d}", "pushes", "staleness").tolist()
        for updates, share in zip(panels["staleness"]["x"], panels["staleness"]["value"], strict=True):
            assert share == pytest.approx(stale.count(updates) / len(stale))
        wall = column(run, f"server{number:04d}", "pushes", "wall_s")
        width = wall[-1] / len(panels["throughput"])
        assert panels["throughput"]["value"].sum() * width == pytest.approx(
            column(run, f"server{number:04d}", "pushes", "steps").sum()
        )
        assert panels["waiting"]["x"].tolist() == ranks
        for rank, share in zip(ranks, panels["waiting"]["value"], strict=True):
            waited, worked = (
                column(run, f"agent{rank:04d}", "rollouts", f"{kind}_s").sum() for kind in ("wait", "work")
            )
            assert share == pytest.approx(waited / (waited + worked))
    assert max(column(run, "server0001", "pushes", "staleness")) > 0  # two workers, or the figure could not be wrong


# -------------------- actions


def by_hand(omega: np.ndarray, logits: np.ndarray, sizes: list[int]) -> np.ndarray:
    """F layer after layer, its weights cut from a flat vector."""
    x, start = logits.astype(np.float64), 0
    for place, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        weight = omega[start : start + inputs * outputs].reshape(outputs, inputs)
        start += inputs * outputs
        x = x @ weight.T + omega[start : start + outputs]
        start += outputs
        x = x if place == len(sizes) - 2 else np.maximum(x, 0)
    assert start == len(omega)
    return x


def test_bars_are_mean_softmaxes_and_the_aligned_teacher_is_f_of_what_it_says_of_the_students_states(run, drawn):
    table = drawn(action_distributions, run, "--states", 150, "--seed", 3)
    (lecture,) = actions.lectures(run, None, 150, 3)
    store = saved(run, "pole3")["store"]
    aligned = by_hand(store["values"][store["network"] :], lecture.raw, [2, 512, 512, 512, 512, 3])
    assert np.abs(aligned - lecture.raw.mean()).max() > 1e-3
    logits = {"teacher": lecture.own, "student": lecture.said, "raw": lecture.raw, "aligned": aligned}
    for panel, values in logits.items():
        bars = table[table["panel"] == panel]
        np.testing.assert_allclose(bars["probability"], softmax(values, axis=1).mean(axis=0), atol=1e-6)
        assert bars["probability"].sum() == pytest.approx(1)
        assert set(bars["states"]) == {150} == {len(values)}
    assert len(table) == 2 + 3 + 2 + 3
    assert set(table["teacher"] + table["student"]) == {"polepole3"}


def test_the_script_draws_without_a_display_and_names_its_files(run, tmp_path):
    figure = tmp_path / "figure.png"
    env = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "MPLBACKEND")}
    env["PYTHONPATH"] = f"{TOYS['PYTHONPATH']}{os.pathsep}{ROOT}"
    argv = [sys.executable, "analysis/action_distributions.py", str(run), "--states", "20", "-o", str(figure)]
    done = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"figure: {figure}\nnumbers: {figure.with_suffix('.csv')}\n" in done.stdout


# -------------------- what is no figure


@pytest.mark.parametrize("module", [task_curve, staleness, action_distributions])
def test_what_is_no_run_gets_one_line_and_code_2(module, tmp_path, capsys):
    assert module.main([str(tmp_path), "-o", str(tmp_path / "x.png")]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith(f"error: {tmp_path}: ")
    assert told.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("module", [task_curve, staleness, action_distributions])
def test_a_task_that_is_not_there_is_refused_and_the_others_are_named(module, run, tmp_path, capsys):
    assert module.main([str(run), "--task", "pong", "-o", str(tmp_path / "x.png")]) == 2
    told = capsys.readouterr().err
    assert "--task" in told
    assert "pole3" in told
    assert told.count("\n") == 1


@pytest.mark.parametrize("module", [task_curve, staleness])
def test_runs_of_the_other_program_and_unlike_runs_of_one_name_are_refused(module, run, tmp_path, capsys):
    ltcr = imitate(run, tmp_path / "ltcr", program="ltcr")
    assert module.main([str(ltcr), "-o", str(tmp_path / "x.png")]) == 2
    assert f"{ltcr}: is a run of ltcr" in capsys.readouterr().err
    unlike = imitate(run, tmp_path / "unlike", workers=5)
    assert module.main([str(run), str(unlike), "-o", str(tmp_path / "x.png")]) == 2
    assert "workers is 5 and not 1" in capsys.readouterr().err
    assert module.main([str(run), str(unlike), "--mixed", "-o", str(tmp_path / "x.png")]) == 0
