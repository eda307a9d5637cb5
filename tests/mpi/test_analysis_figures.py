"""The figures from real short runs: what is drawn equals what the logs hold, recomputed here by plain loops."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, Started
from matplotlib.image import imread

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(240)]  # the first test waits for both trainings

sys.path.insert(0, str(ROOT / "analysis"))
learning_curve, kl_trace, value_distributions, score_table, battles = (
    importlib.import_module(name)
    for name in ("learning_curve", "kl_trace", "value_distributions", "score_table", "battles")
)

LAST = 1200
SHORT = [
    *("--frames", str(LAST)),
    *("--agent.hidden", "[32]"),
    *("--agent.batch", "16"),
    *("--agent.warmup", "200"),
    *("--transfer.start", "200"),
    *("--log.probe_size", "64"),
    *("--log.probe_every", "300"),
    *("--log.distributions_at", "[500, 1000]"),
    *("--runtime.threads", "1"),
]
TEAM, ALONE = "ltcr-cartpole-9-1", "ltcr-cartpole-alone"


class Runs(NamedTuple):
    """Two real runs of two agents each."""

    team: Path
    alone: Path


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("figures")
    for preset in (TEAM, ALONE):
        argv = ["-m", "mpi_ltcr", "train", preset, *SHORT, "--out", str(folder / preset)]
        done = Started(2, argv, folder).finish(100)
        assert done.rc == 0, done.err
    return Runs(folder / TEAM, folder / ALONE)


def column(run: Path, agent: int, table: str, name: str) -> np.ndarray:
    with h5py.File(run / "logs" / f"agent{agent:04d}.h5") as file:
        return file[table][name][:]


def smoothed(run: Path, agent: int, table: str, name: str, at: int, window: int = 500) -> float:
    """Mean over the rows with frames in (at - window, at], row by row."""
    rows = zip(column(run, agent, table, "frames"), column(run, agent, table, name), strict=True)
    inside = [value for frame, value in rows if at - window < frame <= at and value == value]
    return sum(inside) / len(inside)


def numbers(figure: Path) -> pd.DataFrame:
    """The CSV beside a figure, after a look at the picture itself."""
    picture = imread(figure)
    assert min(picture.shape[:2]) > 300
    assert len(np.unique(picture[::3, ::3, :3].sum(axis=2))) > 50  # ink in several colours, antialiased
    return pd.read_csv(figure.with_suffix(".csv"))


def imitate(run: Path, copy: Path, *, seed: int | None = None, config: dict | None = None) -> Path:
    """A copy of a run; its logs say another seed, or another configuration (a nested update)."""
    shutil.copytree(run, copy)
    for path in (copy / "logs").iterdir():
        with h5py.File(path, "r+") as file:
            if seed is not None:
                file.attrs["seed"] = seed
            content = json.loads(file.attrs["config_json"])
            for field, value in (config or {}).items():
                content[field] = {**content[field], **value} if isinstance(value, dict) else value
            file.attrs["config_json"] = json.dumps(content)
    return copy


def cut(run: Path, agent: int, last: int) -> None:
    """Make a log that of an earlier moment: no row after frame `last`."""
    with h5py.File(run / "logs" / f"agent{agent:04d}.h5", "r+") as file:
        for table in file.values():
            rows = int((table["frames"][:] <= last).sum())
            for name in list(table):
                content = table[name][:rows]
                del table[name]
                table[name] = content


# -------------------- every script as a user starts it


@pytest.mark.parametrize("script", ["learning_curve", "kl_trace", "value_distributions"])
def test_the_script_draws_both_methods_without_a_display_and_names_its_files(
    script: str, runs: Runs, tmp_path: Path
) -> None:
    figure = tmp_path / "new" / "figure.png"
    env = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "MPLBACKEND")}
    argv = [sys.executable, f"analysis/{script}.py", *map(str, runs), "-o", str(figure)]
    done = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert set(numbers(figure)["method"]) == {TEAM, ALONE}
    for expected in (f"figure: {figure}\n", f"numbers: {figure.with_suffix('.csv')}\n", "n = 1 seed, 2 curves"):
        assert expected in done.stdout


def test_the_learning_curve_is_the_mean_over_agents_of_trailing_evaluations(runs: Runs, tmp_path: Path) -> None:
    assert learning_curve.main([*map(str, runs), "-o", str(tmp_path / "x.png")]) == 0
    table = numbers(tmp_path / "x.png")
    for method, run in ((TEAM, runs.team), (ALONE, runs.alone)):
        line = table[table["method"] == method]
        assert line["frames"].tolist() == list(range(100, LAST + 1, 100))
        for frame, value in zip(line["frames"], line["return"], strict=True):
            assert value == pytest.approx(np.mean([smoothed(run, a, "eval", "return", frame) for a in (0, 1)]))
        assert line["low"].isna().all()
        assert set(line["seeds"]) == {1}
        assert set(line["curves"]) == {2}


def test_lines_by_agent_are_the_agents_own_training_episodes(runs: Runs, tmp_path: Path) -> None:
    options = ["--by", "agent", "--table", "episodes", "--statistic", "iqm", "--window", "300"]
    assert learning_curve.main([str(runs.team), *options, "-o", str(tmp_path / "x.png")]) == 0
    table = numbers(tmp_path / "x.png")
    assert sorted(set(table["group"])) == [f"{TEAM}, agent 0", f"{TEAM}, agent 1"]
    for agent, frame, value in zip(table["agent"], table["frames"], table["return"], strict=True):
        assert value == pytest.approx(smoothed(runs.team, agent, "episodes", "return", frame, 300))
    assert len(table) > 30


def test_two_seeds_have_a_band_between_their_own_means(runs: Runs, tmp_path: Path) -> None:
    second = imitate(runs.alone, tmp_path / "s2", seed=2)
    for agent in (0, 1):
        with h5py.File(second / "logs" / f"agent{agent:04d}.h5", "r+") as file:
            file["eval"]["return"][:] += 50.0
    arguments = [str(runs.alone), str(second), str(second), "-o", str(tmp_path / "x.png")]  # twice counts once
    assert learning_curve.main(arguments) == 0
    table = numbers(tmp_path / "x.png")
    assert set(table["seeds"]) == {2}
    assert set(table["curves"]) == {4}
    np.testing.assert_allclose(table["high"] - table["low"], 50)
    np.testing.assert_allclose(table["return"] - table["low"], 25)


def test_a_copied_run_of_the_same_seed_makes_no_second_seed(runs: Runs, tmp_path: Path) -> None:
    copy = imitate(runs.team, tmp_path / "copy")
    assert learning_curve.main([str(runs.team), str(copy), "-o", str(tmp_path / "x.png")]) == 0
    assert set(numbers(tmp_path / "x.png")["seeds"]) == {1}


def test_the_kl_of_a_method_is_the_mean_of_what_its_agents_logged(runs: Runs, tmp_path: Path) -> None:
    assert kl_trace.main([*map(str, runs), "-o", str(tmp_path / "x.png")]) == 0
    table = numbers(tmp_path / "x.png")
    source = {"drawn": "exchange", "fixed": "probe"}
    for panel, method, frame, value in zip(table["panel"], table["method"], table["frames"], table["kl"], strict=True):
        run = runs.team if method == TEAM else runs.alone
        means = [smoothed(run, agent, source[panel], "kl_teammates", frame) for agent in (0, 1)]
        assert value == pytest.approx(np.mean(means), rel=1e-9)
    frames = table.groupby(["panel", "method"])["frames"].agg(list)
    assert frames["fixed", ALONE] == frames["fixed", TEAM] == [300, 600, 900, 1200]
    assert frames["drawn", TEAM] == list(range(300, LAST + 1, 100))  # the first exchange is after frame 200
    assert ("drawn", ALONE) not in frames


def test_a_kl_trace_of_one_lonely_agent_is_refused(runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    single = imitate(runs.alone, tmp_path / "single")
    (single / "logs" / "agent0001.h5").unlink()
    with h5py.File(single / "logs" / "agent0000.h5", "r+") as file:
        file["probe"]["kl_teammates"][:] = np.nan
    assert kl_trace.main([str(single), "-o", str(tmp_path / "x.png")]) == 2
    assert "needs two agents" in capsys.readouterr().err
    assert not (tmp_path / "x.png").exists()


def test_distributions_and_their_distances_are_those_of_the_log(runs: Runs, tmp_path: Path) -> None:
    assert value_distributions.main([*map(str, runs), "--state", "3", "-o", str(tmp_path / "x.png")]) == 0
    table = numbers(tmp_path / "x.png")
    assert len(table) == 2 * 2 * 2 * 51
    for (method, agent), part in table.groupby(["method", "agent"]):
        run = runs.team if method == TEAM else runs.alone
        logged = {n: column(run, agent, "distributions", n) for n in ("frames", "state", "action", "atom", "z")}
        mass = column(run, agent, "distributions", "probability").astype(float)
        here = (logged["state"] == 3) & (logged["frames"] == 1000)
        values = [np.sum((mass * logged["z"])[here & (logged["action"] == a)]) for a in (0, 1)]
        assert set(part["action"]) == {int(np.argmax(values))}
        p, q = (part[part["frames"] == frame].sort_values("atom") for frame in (500, 1000))
        for shown in (p, q):
            rows = (logged["state"] == 3) & (logged["frames"] == shown["frames"].iloc[0])
            rows &= logged["action"] == shown["action"].iloc[0]
            np.testing.assert_array_equal(shown["probability"], mass[rows][np.argsort(logged["atom"][rows])])
            assert shown["z"].tolist() == pytest.approx(list(range(-100, 101, 4)))
        apart = q["probability"].to_numpy() - p["probability"].to_numpy()
        assert q["total_variation"].to_numpy() == pytest.approx(sum(abs(d) for d in apart) / 2)
        below, total = 0.0, 0.0
        for d in apart[:-1]:
            below += d
            total += 4 * below**2
        assert q["cramer"].to_numpy() == pytest.approx(total**0.5)
        assert p["cramer"].isna().all()
        assert total > 1e-6  # something was learned between the two, so that the comparison can fail


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--state", "99"], "--state 99: the probe states are 0 to 8"),
        (["--frames", "700"], "no distributions at [700]"),
        (["--agent", "5"], "--agent 5"),
    ],
)
def test_what_the_log_does_not_hold_is_refused_by_name(
    options: list[str], told: str, runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert value_distributions.main([str(runs.team), *options, "-o", str(tmp_path / "x.png")]) == 2
    assert told in capsys.readouterr().err


# -------------------- running runs, and what cannot be compared


@pytest.mark.parametrize("module", [learning_curve, kl_trace, value_distributions])
def test_a_running_run_is_drawn_over_the_frames_that_all_its_agents_have_published(
    module: object, runs: Runs, tmp_path: Path
) -> None:
    running = imitate(runs.team, tmp_path / "running")
    status = json.loads((running / "status.json").read_text())
    (running / "status.json").write_text(json.dumps({**status, "state": "running", "frames": 1100}))
    cut(running, 0, 1100)
    cut(running, 1, 900)
    assert module.main([str(running), str(runs.alone), "-o", str(tmp_path / "x.png")]) == 0
    table = numbers(tmp_path / "x.png")
    last = table.groupby("method")["frames"].max()
    if module is value_distributions:  # agent 0 has reached frame 1000, agent 1 has not
        assert table[table["method"] == TEAM].groupby("agent")["frames"].max().tolist() == [1000, 500]
    else:
        assert last[TEAM] == 900
        assert last[ALONE] == LAST


@pytest.mark.parametrize("module", [learning_curve, kl_trace, value_distributions])
def test_something_that_is_not_a_run_gets_one_line_and_code_2(
    module: object, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert module.main([str(tmp_path), "-o", str(tmp_path / "x.png")]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith(f"error: {tmp_path}: ")
    assert told.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"env": {"kwargs": {"angle_limit_deg": 12}}}, "env.kwargs.angle_limit_deg"),
        ({"agent": {"lr": 0.5}}, "agent.lr"),
    ],
)
def test_unlike_runs_are_drawn_together_only_when_asked_to(
    config: dict, field: str, runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    other = imitate(runs.team, tmp_path / "other", config=config)
    arguments = [str(runs.team), str(other), "-o", str(tmp_path / "x.png")]
    assert learning_curve.main(arguments) == 2
    told = capsys.readouterr().err
    assert f"{field} is " in told
    assert told.count("\n") == 1
    assert learning_curve.main([*arguments, "--mixed"]) == 0
    assert set(numbers(tmp_path / "x.png")["curves"]) == {4}


def test_runs_of_one_method_may_differ_in_what_is_not_learning(runs: Runs, tmp_path: Path) -> None:
    config = {"frames": 9000, "agent": {"backend": "fused"}, "checkpoint": {"every": 50}}
    other = imitate(runs.team, tmp_path / "other", config=config)
    assert learning_curve.main([str(runs.team), str(other), "-o", str(tmp_path / "x.png")]) == 0


def test_a_run_of_the_other_program_is_refused(runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    other = imitate(runs.team, tmp_path / "other", config={"program": "ca3c"})
    assert learning_curve.main([str(other), "-o", str(tmp_path / "x.png")]) == 2
    assert f"{other}: is a run of ca3c" in capsys.readouterr().err


# -------------------- scores


def returns(run: Path, agent: int) -> list[float]:
    return column(run, agent, "eval", "return").tolist()


def test_the_score_table_holds_averages_highest_trailing_means_and_the_gain(runs: Runs, tmp_path: Path) -> None:
    assert score_table.main([*map(str, runs), "--window", "500", "-o", str(tmp_path / "t.md")]) == 0
    table = pd.read_csv(tmp_path / "t.csv").set_index("method")
    for method, run in ((TEAM, runs.team), (ALONE, runs.alone)):
        average = np.mean([np.mean(returns(run, agent)) for agent in (0, 1)])
        full = range(500, LAST + 1, 100)
        highest = [max(smoothed(run, agent, "eval", "return", frame) for frame in full) for agent in (0, 1)]
        assert table.loc[method, "average"] == pytest.approx(average)
        assert table.loc[method, "highest"] == pytest.approx(np.mean(highest))
        assert table.loc[method, "best"] == pytest.approx(max(highest))
        assert (table.loc[method, "seeds"], table.loc[method, "curves"]) == (1, 2)
    for score in ("average", "highest"):
        b, a = table.loc[TEAM, score], table.loc[ALONE, score]
        assert table.loc[TEAM, f"{score}_gain"] == pytest.approx((b - a) / a)
        assert table.loc[TEAM, f"{score}_difference"] == pytest.approx(b - a)
        assert np.isnan(table.loc[TEAM, f"{score}_gain_low"]), "one seed has no interval"
        assert np.isnan(table.loc[ALONE, f"{score}_gain"])
    lines = (tmp_path / "t.md").read_text().splitlines()
    assert lines[0].startswith("| game | method | seeds | average | gain |")
    assert f"| CartPole15-v0 | {TEAM} | 1 | {table.loc[TEAM, 'average']:.1f} |" in lines[2]
    assert {line.count("|") for line in lines} == {9}
    body = (tmp_path / "t.tex").read_text()
    assert body.startswith(r"\begin{tabular}{llrrrrrr}")
    assert body.count(r"\\") == 3
    assert rf"{100 * table.loc[TEAM, 'average_gain']:.0f} \%" in body


def test_without_a_window_the_highest_is_the_largest_return_of_each_agent(runs: Runs, tmp_path: Path) -> None:
    assert score_table.main([str(runs.team), "--by", "agent", "--window", "0", "-o", str(tmp_path / "t.md")]) == 0
    table = pd.read_csv(tmp_path / "t.csv")
    assert table["agent"].tolist() == [0, 1]
    for agent in (0, 1):
        assert table["highest"][agent] == max(returns(runs.team, agent))
        assert table["average"][agent] == pytest.approx(np.mean(returns(runs.team, agent)))
    assert table["average_gain"].isna().all()


def test_intervals_are_over_seeds_and_a_gain_over_nothing_positive_is_none(runs: Runs, tmp_path: Path) -> None:
    """The second seed of either method scores 50 more throughout, so every interval is known."""
    seconds = [imitate(run, tmp_path / f"{run.name}-2", seed=2) for run in runs]
    for run in seconds:
        for agent in (0, 1):
            with h5py.File(run / "logs" / f"agent{agent:04d}.h5", "r+") as file:
                file["eval"]["return"][:] += 50.0
    arguments = [*map(str, runs), *map(str, seconds), "-o", str(tmp_path / "t.md")]
    assert score_table.main(arguments) == 0
    table = pd.read_csv(tmp_path / "t.csv").set_index("method")
    np.testing.assert_allclose(table["average_high"] - table["average_low"], 50)
    b, a = (np.mean([np.mean(returns(run, agent)) for agent in (0, 1)]) for run in runs)
    row = table.loc[TEAM]
    assert row["average_difference"] == pytest.approx(b - a)
    assert (row["average_difference_low"], row["average_difference_high"]) == pytest.approx((b - a - 50, b - a + 50))
    assert row["average_gain"] == pytest.approx((b - a) / (a + 25))
    assert row["average_gain_low"] == pytest.approx((b - a - 50) / (a + 50))
    assert row["average_gain_high"] == pytest.approx((b + 50 - a) / a)

    for run in (runs.alone, *seconds[1:]):
        poor = imitate(run, tmp_path / f"poor-{run.name}")
        for agent in (0, 1):
            with h5py.File(poor / "logs" / f"agent{agent:04d}.h5", "r+") as file:
                file["eval"]["return"][:] -= 1000.0
    poor = [str(path) for path in tmp_path.glob("poor-*")]
    assert score_table.main([str(runs.team), str(seconds[0]), *poor, "-o", str(tmp_path / "t.md")]) == 0
    table = pd.read_csv(tmp_path / "t.csv").set_index("method")
    assert np.isnan(table.loc[TEAM, "average_gain"])
    assert table.loc[TEAM, "average_difference"] == pytest.approx(1000 + b - a)
    assert "none: baseline ≤ 0" in (tmp_path / "t.md").read_text()


def test_scores_are_compared_over_the_frames_that_all_runs_have(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = imitate(runs.alone, tmp_path / "short")
    cut(short, 0, 800)
    assert score_table.main([str(runs.team), str(short), "--window", "0", "-o", str(tmp_path / "t.md")]) == 0
    assert f"all over the 800 frames of the shortest run; the longest has {LAST}" in capsys.readouterr().out
    average = pd.read_csv(tmp_path / "t.csv").set_index("method")["average"]
    for method, run in ((TEAM, runs.team), (ALONE, runs.alone)):
        assert average[method] == pytest.approx(np.mean([returns(run, agent)[:8] for agent in (0, 1)]))


def test_scores_of_lives_are_those_of_evaluation_games(runs: Runs, tmp_path: Path) -> None:
    run = imitate(runs.alone, tmp_path / "lives")
    for agent in (0, 1):
        with h5py.File(run / "logs" / f"agent{agent:04d}.h5", "r+") as file:
            for name, values in {
                "frames": [100, 100, 200],
                "return": [3.0, 7.0, 90.0],
                "evaluation": [1, 1, 0],
            }.items():
                del file["lives"][name]
                file["lives"][name] = np.array(values)
    asked = [str(run), "--unit", "life", "--window", "0", "-o", str(tmp_path / "t.md")]
    assert score_table.main(asked) == 0
    table = pd.read_csv(tmp_path / "t.csv")
    assert (table["average"][0], table["highest"][0]) == (5, 7)
    assert score_table.main([*asked, "--table", "episodes"]) == 0
    assert pd.read_csv(tmp_path / "t.csv")["average"][0] == 90


def test_a_table_of_what_is_not_recorded_is_refused(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for options, told in (
        (["--unit", "life"], "no score of a life in eval yet"),
        (["--window", "5000"], f"ends at frame {LAST}, before a full window of 5000"),
    ):
        assert score_table.main([str(runs.team), *options, "-o", str(tmp_path / "t.md")]) == 2
        assert told in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_what_the_ships_do_is_drawn_from_training_games_alone(runs: Runs, tmp_path: Path) -> None:
    run = imitate(runs.team, tmp_path / "battle")
    rows = {"frames": [300, 600, 600, 900], "result": [1, -1, 1, 1], "evaluation": [0, 0, 1, 0]}
    for agent in (0, 1):
        with h5py.File(run / "logs" / f"agent{agent:04d}.h5", "r+") as file:
            table = file["battles"]
            for name in list(table):
                values = rows.get(name, np.array([1, 2, 300, 6]) / 10 + agent)
                del table[name]
                table[name] = np.array(values)
    assert battles.main([str(run), "--window", "600", "-o", str(tmp_path / "x.png")]) == 0
    table = numbers(tmp_path / "x.png").set_index(["panel", "frames"])["value"]
    assert table["fire", 360] == pytest.approx(0.1 + 0.5)
    assert table["fire", 600] == pytest.approx(0.15 + 0.5)
    assert table["enemy hits", 840] == pytest.approx(0.15 + 0.5)
    assert table["won", 600] == pytest.approx(0.5)
    assert set(table.index.get_level_values("panel")) == set(battles.PANELS)
    for frame in (600, 1200):
        means = [smoothed(run, agent, "probe", "value_spread", frame, 600) for agent in (0, 1)]
        assert table["spread", frame] == pytest.approx(np.mean(means))
