"""What `watch` and `status` show and `export` writes comes from published files, of running, finished and lost runs."""

from __future__ import annotations

import csv
import json
import os
import socket
import time
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from ca3c_helpers import POLE, config_of
from conftest import verb

from mpi_ltcr import options
from mpi_ltcr.archive import checkpoint
from mpi_ltcr.archive.heartbeats import Heartbeats
from mpi_ltcr.archive.recorder import Recorder
from mpi_ltcr.archive.rundir import RunDirectory
from mpi_ltcr.verbs.export import scalars
from mpi_ltcr.verbs.status import SILENCE_S, health

FRAMES = [100, 100, 200]
NOW = time.time()
"""When every heartbeat of these tests was, and when `watch` looks."""


@pytest.fixture(autouse=True)
def looks_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mpi_ltcr.verbs.watch.time", SimpleNamespace(time=lambda: NOW))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A running run of this process: two agents, a checkpoint, heartbeats."""
    config, _ = options.load(["ltcr-cartpole-9-1", "--frames", "400"])
    directory = RunDirectory(tmp_path / "run")
    directory.create(options.to_yaml(config), {})
    attributes = {"run_id": "run", "config_json": json.dumps(options.to_dict(config))}
    draft = checkpoint.begin(directory.checkpoints, 100)
    entries = []
    for agent in range(2):
        recorder = Recorder(path=directory.log(agent), attributes={**attributes, "agent": agent})
        for frames, value in zip(FRAMES, (1.0, 3.0, 7.5 + agent), strict=True):
            row = {"return": value, "length": 5, "episode": 0, "lives": 1}
            recorder.add("eval", frames=frames, updates=9, wall_s=frames / 10, **row)
        recorder.add("train", frames=200, updates=9, wall_s=20.0, td_loss=0.25, epsilon=np.nan)
        recorder.add(
            "perf", frames=200, updates=9, wall_s=20.0, frames_per_s=50.0, revisit_s=3.0, explore_s=1.0, rss_bytes=1e8
        )
        recorder.publish()
        state = {"agent": {"weights": np.arange(6, dtype=np.float32) + agent, "frames": 100}}
        entries.append(checkpoint.write_file(draft, checkpoint.rank_file(agent), state))
    checkpoint.commit(directory.checkpoints, 100, entries, {"world_size": 2})
    beat(directory.root, 0, phase="revisit")
    beat(directory.root, 1, waits={"what": "the others in gather at here:7", "ranks": [0], "place": [1, 2]})
    directory.write_status(state="running", frames=200, attempt=1, checkpoint=100, exit_code=1)
    return directory.root


def beat(run: Path, rank: int, *, age: float = 0, phase: str = "communicate", waits: dict | None = None) -> None:
    pulse = {"host": "node7", "pid": 1, "beats": 1, "collectives": 1, "silence_s": 30.0 * rank}
    pulse |= {"rank": rank, "time": NOW - age, "phase": phase, "waits": waits, "entered": []}
    Heartbeats(run, 1).publish(rank, pulse)


def test_watch_shows_progress_returns_phases_and_the_age_of_each_heartbeat(run, capsys) -> None:
    code, out, err = verb("watch", str(run), "--once", capsys=capsys)
    assert (code, err) == (0, "")
    assert "[##########..........] 200 of 400 frames, 50 frames/s, 0 min to go" in out
    assert ["0", "200", "3.833", "-", "-", "0.250"] in [line.split() for line in out.splitlines()]
    assert "agent 1: explore 25 %" in out
    assert "revisit 75 %" in out
    assert "rank 0 on node7: 0 s ago, revisit\n" in out
    assert "rank 1 on node7: 0 s ago, waits for the others in gather at here:7, no progress for 30 s" in out


@pytest.fixture
def duo(tmp_path: Path) -> Path:
    """A running run of cA3C: servers of two tasks on ranks 0 and 1, a worker of each on ranks 2 and 3."""
    config = config_of(tmp_path, tasks=[POLE, {**POLE, "name": "second"}])
    directory = RunDirectory(tmp_path / "duo")
    directory.create(options.to_yaml(config), {})
    attributes = {"run_id": "duo", "config_json": json.dumps(options.to_dict(config))}
    for task in (0, 1):
        server = Recorder(path=directory.logs / f"server{task:04d}.h5", attributes={**attributes, "agent": task})
        for push in range(1, 5):
            row = {"worker": 2 + task, "staleness": task + push % 2, "queue": 1, "steps": 10, "bytes": 100}
            clocks = {"frames": 10 * push + task, "updates": push, "wall_s": 0.5 * push}
            server.add("pushes", **clocks, **row)
            if push > 2:
                server.add("returns", **clocks, worker=2 + task, **{"return": 10.0 * push})
        server.publish()
        worker = Recorder(path=directory.log(2 + task), attributes={**attributes, "agent": 2 + task})
        traffic = {"steps": 10, "bytes_sent": 100, "bytes_received": 100, "work_s": 3.0, "wait_s": 1.0}
        worker.add("rollouts", frames=40, updates=4, wall_s=2.0, distill_loss=0.75, **traffic)
        worker.publish()
    checkpoint.begin(directory.task_checkpoints("second"), 30)
    checkpoint.commit(directory.task_checkpoints("second"), 30, [], {"world_size": 4})
    for rank in range(4):
        beat(directory.root, rank)
    directory.write_status(state="running", frames=40, attempt=1, exit_code=1)
    return directory.root


def test_status_of_ca3c_tells_the_frames_and_the_checkpoint_of_every_task(duo, capsys) -> None:
    out = verb("status", str(duo), capsys=capsys)[1]
    assert "pole: T = 40, last checkpoint: none yet\nsecond: T = 41, last checkpoint: frame 30\n" in out
    tasks = json.loads(verb("status", str(duo), "--json", capsys=capsys)[1])["tasks"]
    assert tasks == {"pole": {"frames": 40, "checkpoint": None}, "second": {"frames": 41, "checkpoint": 30}}


def test_watch_of_ca3c_shows_every_task_with_its_staleness_and_every_worker(duo, capsys) -> None:
    code, out, err = verb("watch", str(duo), "--once", capsys=capsys)
    assert (code, err) == (0, "")
    assert "second: [##..................] 41 of 300 frames, 20 frames/s, 0 min to go" in out
    lines = [line.split() for line in out.splitlines()]
    assert ["pole", "40", "35.000", "0.500", "1.000"] in lines
    assert ["second", "41", "35.000", "1.500", "1.000"] in lines
    assert ["3", "40", "-", "0.750", "-", "-"] in lines
    assert "worker 3: work 75 %  wait 25 %" in out
    assert out.count("node7: 0 s ago") == 4


def test_a_damaged_log_of_a_server_keeps_nobody_from_reading_how_the_run_ended(duo, capsys) -> None:
    (duo / "logs" / "server0000.h5").write_bytes(b"no HDF5")
    RunDirectory(duo).write_status(state="preempted", exit_code=85)
    code, out, _ = verb("status", str(duo), "--exit-code", capsys=capsys)
    assert code == 85
    assert "preempted at frame 40" in out


def test_watch_ends_by_itself_when_there_will_be_no_more(run, capsys) -> None:
    RunDirectory(run).write_status(state="completed", frames=400, exit_code=0)
    assert "completed at frame 400" in verb("watch", str(run), "--every", "3600", capsys=capsys)[1]


def test_watch_of_a_run_without_logs_says_so(run, capsys) -> None:
    for log in (run / "logs").iterdir():
        log.unlink()
    assert "no logs yet" in verb("watch", str(run), "--once", capsys=capsys)[1]


@pytest.mark.parametrize("verb_", [["status"], ["watch", "--once"]], ids=lambda words: words[0])
@pytest.mark.parametrize(("field", "value"), [("heartbeat", "soon"), ("attempt", "z"), ("frames", "x"), ("state", 1)])
def test_a_damaged_status_is_told_in_one_line_that_names_the_field(field, value, verb_, run, capsys) -> None:
    status = json.loads((run / "status.json").read_text())
    (run / "status.json").write_text(json.dumps({**status, field: value}))
    code, out, err = verb(*verb_, str(run), capsys=capsys)
    assert (code, out) == (2, "")
    assert err.startswith(f"mpi-ltcr: error: {run}/status.json is damaged ({field}: {value!r} is no ")
    assert err.count("\n") == 1


def change_attribute(path: Path, name: str, value: object) -> None:
    with h5py.File(path, "r+") as file:
        if value is None:
            del file.attrs[name]
        else:
            file.attrs[name] = value


@pytest.mark.parametrize(
    "value", [7, [1, 2], "{", "[" * 50_000, "[3]", "{}", '{"frames": "x", "program": "ltcr"}', None]
)
@pytest.mark.parametrize("kind", ["run", "duo"])
def test_a_log_without_a_configuration_is_told_and_what_else_there_is_is_shown(kind, value, request, capsys) -> None:
    run = request.getfixturevalue(kind)
    for path in (run / "logs").iterdir():
        change_attribute(path, "config_json", value)
    code, out, err = verb("watch", str(run), "--once", capsys=capsys)
    assert (code, err) == (0, "")
    assert "config_json" in out
    assert f"mpi-ltcr verify {run}" in out
    assert "rank 0 on node7: 0 s ago" in out
    assert verb("status", str(run), capsys=capsys)[0] == 0


def test_a_damaged_log_is_told_apart_from_one_that_is_not_there_yet(run, capsys) -> None:
    def watched() -> str:
        code, out, err = verb("watch", str(run), "--once", capsys=capsys)
        assert (code, err) == (0, "")
        return out

    path = run / "logs" / "agent0000.h5"
    whole = path.read_bytes()
    change_attribute(path, "agent", "first")
    assert "agent0000.h5: attribute agent cannot be used" in watched()
    for format_ in ("other", [1, 2]):
        path.write_bytes(whole)
        change_attribute(path, "format", format_)
        assert "agent0000.h5: not a log of this program" in watched()
    path.write_bytes(whole)
    with h5py.File(path, "r+") as file:
        del file["perf/frames_per_s"]
    assert "no column frames_per_s" in watched()
    with h5py.File(path, "r+") as file:
        del file["perf"]
    assert "agent0000.h5: has no table perf; it is damaged" in watched()
    path.write_bytes(b"no HDF5")
    assert "agent0000.h5: not readable as HDF5" in watched()
    assert "no logs yet" not in watched()


def test_a_run_is_lost_if_its_owner_is_gone_or_nobody_has_shown_a_sign_of_life(run, capsys) -> None:
    def lost() -> bool:
        seen = health(run, NOW)
        assert seen.exit_code == (75 if seen.lost else 1)
        return seen.lost

    assert not lost()
    for holder in ({"host": socket.gethostname(), "pid": 2**22 + 1}, {}):
        (run / "run.lock").write_text(json.dumps(holder))
        assert lost()
    (run / "run.lock").write_text(json.dumps({"host": "elsewhere", "pid": os.getpid()}))
    assert not lost()
    status = RunDirectory(run).read_status()
    (run / "status.json").write_text(json.dumps({**status, "heartbeat": NOW - 1e4}))
    assert not lost(), "the ranks' own heartbeats are fresh"
    for rank in range(2):
        beat(run, rank, age=SILENCE_S + 1)
    assert lost()
    code, out, _ = verb("status", str(run), "--exit-code", capsys=capsys)
    assert (code, "no rank has shown a sign of life" in out) == (75, True)
    assert json.loads(verb("status", str(run), "--json", capsys=capsys)[1])["lost"] is True


def test_every_table_is_written_as_csv_with_every_row(run, capsys) -> None:
    assert verb("export", str(run), "--csv", capsys=capsys)[0] == 0
    with open(run / "export" / "csv" / "agent0001" / "eval.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["frames"]) for row in rows] == FRAMES
    assert [float(row["return"]) for row in rows] == [1.0, 3.0, 8.5]


def test_curves_are_written_for_tensorboard_under_the_names_that_its_users_know(run, capsys) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for _ in range(2):  # a second export replaces the first
        assert verb("export", str(run), "--tensorboard", capsys=capsys)[0] == 0
    read = accumulator.EventAccumulator(str(run / "export" / "tensorboard" / "agent0000"))
    read.Reload()
    assert [(point.step, point.value) for point in read.Scalars("eval/mean_reward")] == [(100, 2.0), (200, 7.5)]
    assert set(read.Tags()["scalars"]) == {"eval/mean_reward", "eval/mean_ep_length", "train/loss", "time/fps"}


def test_the_newest_weights_are_written_as_safetensors(run, capsys) -> None:
    numpy = pytest.importorskip("safetensors.numpy")
    assert verb("export", str(run), "--safetensors", capsys=capsys)[0] == 0
    weights = numpy.load_file(run / "export" / "agent0001.safetensors")
    assert list(weights) == ["agent/weights"]
    assert weights["agent/weights"].tolist() == [1, 2, 3, 4, 5, 6]


def test_a_missing_library_is_one_line_with_the_command_that_installs_it(run, capsys, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "safetensors.numpy", None)
    code, _, err = verb("export", str(run), "--safetensors", capsys=capsys)
    assert code == 2
    assert err == "mpi-ltcr: error: --safetensors: safetensors is not installed; pip install safetensors\n"


def test_a_damaged_checkpoint_is_not_exported(run, capsys) -> None:
    path = next((run / "checkpoints").glob("step_*/rank0000.h5"))
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    code, _, err = verb("export", str(run), "--safetensors", capsys=capsys)
    assert (code, "sha256 differs" in err) == (65, True)


def test_of_equal_frames_the_mean_is_exported_and_what_is_no_number_is_not(run) -> None:
    from mpi_ltcr.archive.reader import read_logs

    points = [point for point in scalars(read_logs(run)[1]) if point[0].startswith(("eval/mean_reward", "train/expl"))]
    assert points == [("eval/mean_reward", 100, 2.0, 10.0), ("eval/mean_reward", 200, 8.5, 20.0)]
