"""What can be asked of cA3C: every preset loads and survives YAML, and what cannot be run is refused in one line."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from ca3c_helpers import POLE, POLE3, TINY, certificate, config_file

from mpi_ltcr import cli, options
from mpi_ltcr.config import A3CConfig, AlignConfig, CA3CConfig, ConfigError, TaskConfig, TeacherConfig

PRESETS = [name for name in options.preset_names() if "cdrl" in name or "a3c" in name]
PONG, BOWLING = ({"name": g, "env": {"id": "mpi_ltcr/Atari-v0", "kwargs": {"game": g}}} for g in ("Pong", "Bowling"))


def preset(name: str) -> Any:
    return options.load([name])[0]


# Presets


def test_every_protocol_of_the_paper_has_a_preset_and_a_small_twin():
    paper = {
        *("a3c-pong", "a3c-bowling"),  # the experts
        *("cdrl-kd-only", "cdrl-kd-gae"),  # Fig. 3a, 3b
        *("cdrl-kd-policy", "cdrl-kd-distill"),  # Fig. 4a, 4b
        *("cdrl-offline-align", "cdrl-offline"),  # Fig. 6a
        *("cdrl-online-1", "cdrl-online-2", "cdrl-collaborative"),  # Fig. 6b, 6c, 6d
    }
    assert set(PRESETS) == paper | {f"small-{name}" for name in paper}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_loads_and_reads_back_what_it_writes(name, tmp_path):
    config = preset(name)
    assert config.name == name
    path = tmp_path / "config.yaml"
    path.write_text(options.to_yaml(config))
    assert options.load_file(path) == config
    assert type(config) is (AlignConfig if "align" in name else CA3CConfig)


@pytest.mark.parametrize("name", [name for name in PRESETS if not name.startswith("small-")])
def test_a_small_twin_has_the_same_tasks_teachers_and_layers(name):
    def shape(config: CA3CConfig) -> list[Any]:
        return [
            (task.name, task.env, task.rl, [(t.task, t.layer, t.align, t.state, t.checkpoint is None,
                                             t.alignment is None, t.t_stop is None) for t in task.teachers])
            for task in config.tasks
        ]  # fmt: skip

    large, small = preset(name), preset(f"small-{name}")
    assert small.frames <= large.frames / 50
    if isinstance(large, CA3CConfig):
        assert shape(small) == shape(large)
        assert small.agent == large.agent
        assert small.ranks <= 4


def test_the_numbers_of_the_paper_stand_in_its_presets():
    """CDRL 5.2 to 5.4, and the constants of its code."""

    def teacher(name: str, task: str) -> TeacherConfig:
        (given,) = next(t for t in preset(name).tasks if t.name == task).teachers
        return given

    together = preset("cdrl-collaborative")
    assert [together.workers_of(task) for task in together.tasks] == [8, 8]
    assert together.frames == 20_000_000
    pong, bowling = together.tasks
    assert pong.teachers == []
    given = bowling.teachers[0]
    assert (given.task, given.checkpoint, given.layer, given.align) == ("pong", None, "distill", "network")
    assert (given.t1, given.t2, given.t_stop) == (3_000_000, 4_000_000, 15_000_000)
    assert [(t.t1, t.t2) for t in (teacher("cdrl-online-1", "bowling"), teacher("cdrl-online-2", "bowling"))] == [
        (4_000_000, 6_000_000),
        (100_000, 1_000_000),
    ]
    for name, layer in (("cdrl-kd-policy", "policy"), ("cdrl-kd-distill", "distill")):
        assert (teacher(name, "bowling").layer, teacher(name, "bowling").align) == (layer, "identity")
    student = preset("cdrl-kd-only").tasks[1]
    assert (student.rl, student.teachers[0].layer, student.teachers[0].checkpoint) == (False, "policy", None)
    assert (teacher("cdrl-kd-gae", "student").t_stop, teacher("cdrl-kd-gae", "student").layer) == (1_000_000, "policy")
    assert teacher("cdrl-offline", "bowling").alignment == "runs/cdrl-offline-align"
    agent = preset("a3c-pong").agent
    assert agent == A3CConfig(backend="fused")
    constants = (agent.torso, agent.lstm, agent.rollout, agent.discount, agent.gae_lambda, agent.lr, agent.grad_clip)
    assert constants == ("universe", 256, 20, 0.99, 1.0, 1e-4, 40.0)
    assert (agent.value_coef, agent.entropy_coef, agent.adam_eps, agent.reward_scale) == (0.25, 0.01, 1e-8, 1.0)


def test_what_can_be_asked_of_a_teacher_survives_yaml(tmp_path):
    teacher = TeacherConfig(
        task="a", layer="policy", align="network", activation="elu", direction="aligned||student", temperature=2.5,
        state="student", t1=3, t2=4, t_stop=5,
    )  # fmt: skip
    config = CA3CConfig(tasks=[TaskConfig(name="a", workers=3), TaskConfig(name="b", rl=False, teachers=[teacher] * 2)])
    path = tmp_path / "config.yaml"
    path.write_text(options.to_yaml(config))
    assert options.load_file(path) == config


def test_what_a_list_of_tasks_on_the_command_line_leaves_out_stays_the_presets():
    """Task by task and teacher by teacher, in their order."""
    given = "[{}, {teachers: [{t1: 5, temperature: 2.0}]}]"
    changed, asked = options.load(["cdrl-collaborative", "--tasks", given])[0], preset("cdrl-collaborative")
    assert changed.tasks[0] == asked.tasks[0]
    teacher = dataclasses.replace(asked.tasks[1].teachers[0], t1=5, temperature=2.0)
    assert changed.tasks[1] == dataclasses.replace(asked.tasks[1], teachers=[teacher])


def test_ranks_are_workers_and_dedicated_servers():
    tasks = [TaskConfig(name="a", workers=3), TaskConfig(name="b")]
    assert CA3CConfig(tasks=tasks, workers=2).ranks == 7
    assert CA3CConfig(tasks=tasks, workers=2, server="shared").ranks == 5


# Bad input


def learns(task: dict[str, Any] = POLE, **teacher: Any) -> dict[str, Any]:
    """A second task that learns from the first one, which is called pole."""
    return {**task, "name": "student", "teachers": [{"task": "pole", **teacher}]}


CASES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "T2 before T1": ({"tasks": [POLE, learns(t1=5, t2=4)]}, ["tasks.teachers.t2: 4", "t1: 5", "T1 <= T2"]),
    "the end before T2": ({"tasks": [POLE, learns(t1=1, t2=9, t_stop=8)]}, ["tasks.teachers.t_stop: 8", "t2: 9"]),
    "a negative T1": ({"tasks": [POLE, learns(t1=-1)]}, ["tasks.teachers.t1", "-1"]),
    "an endless T1": ({"tasks": [POLE, learns(t1=float("inf"))]}, ["tasks.teachers.t1", "inf"]),
    "a teacher of an unknown task": (
        {"tasks": [POLE, {**POLE, "name": "b", "teachers": [{"task": "pong"}]}]},
        ["tasks.teachers.task: pong", "pole, b"],
    ),
    "its own teacher": ({"tasks": [{**POLE, "teachers": [{"task": "pole"}]}]}, ["tasks.teachers.task: pole", "own"]),
    "a teacher without a name": ({"tasks": [{**POLE, "teachers": [{"t1": 3}]}]}, ["tasks.teachers.task"]),
    "lives as episodes": (
        {"tasks": [{**POLE, "env": {"id": "mpi_ltcr/Atari-v0", "kwargs": {"game": "Pong", "episodic_life": True}}}]},
        ["tasks.env.kwargs.episodic_life", "leave it out"],
    ),
    "no tasks": ({"tasks": []}, ["tasks: name at least one", "a3c-pong.yaml"]),
    "tasks that are no list": ({"tasks": 5}, ["tasks", "5"]),
    "a task that is nothing": ({"tasks": [None]}, ["tasks", "mapping"]),
    "two tasks of one name": ({"tasks": [POLE, POLE]}, ["tasks.name", "pole"]),
    "a task whose name leaves the folder": ({"tasks": [{**POLE, "name": "../x"}]}, ["tasks.name", "../x"]),
    "a task without a name": ({"tasks": [{**POLE, "name": ""}]}, ["tasks.name"]),
    "a typo in a task": ({"tasks": [{**POLE, "teecher": []}]}, ["tasks.teecher", "did you mean tasks.teachers?"]),
    "a typo in a teacher": ({"tasks": [POLE, learns(tstop=3)]}, ["tasks.teachers.tstop", "tasks.teachers.t_stop?"]),
    "a typo in an agent": ({"agent": {"rolout": 3}}, ["agent.rolout", "did you mean agent.rollout?"]),
    "an unknown layer": ({"tasks": [POLE, learns(layer="value")]}, ["tasks.teachers.layer", "'distill', 'policy'"]),
    "an unknown server": ({"server": "cloud"}, ["server", "'dedicated', 'shared'"]),
    "a temperature of zero": ({"tasks": [POLE, learns(temperature=0)]}, ["tasks.teachers.temperature", "0"]),
    "an alignment without a network": (
        {"tasks": [POLE, learns(align="identity", alignment="runs/F")]},
        ["tasks.teachers.alignment", "align: network"],
    ),
    "no workers": ({"workers": 0}, ["workers", "0"]),
    "a negative number of workers": ({"tasks": [{**POLE, "workers": -1}]}, ["tasks.workers", "-1"]),
    "no rollout": ({"agent": {**TINY["agent"], "rollout": 0}}, ["agent.rollout", "0"]),
    "an infinite learning rate": ({"agent": {"lr": float("inf")}}, ["agent.lr", "inf"]),
    "an MLP without layers": ({"agent": {"torso": "mlp", "hidden": []}}, ["agent.hidden"]),
    "a seed of forty digits": ({"seed": int("9" * 40)}, ["seed", "out of range"]),
    "a GPU": ({"runtime": {"device": "cuda"}}, ["runtime.device", "cpu"]),
    "a name that leaves the folder": ({"name": "../x"}, ["name", "../x"]),
    "no game in a worker": ({"tasks": [{**POLE, "env": {**POLE["env"], "copies": 0}}]}, ["tasks.env.copies", "0"]),
    "half a game in a worker": ({"tasks": [{**POLE, "env": {**POLE["env"], "copies": 1.5}}]}, ["copies", "1.5"]),
    "one game for all workers": (
        {"tasks": [{**POLE, "env": {**POLE["env"], "shared": True}}]},
        ["tasks.env.shared", "tasks.env.copies"],
    ),
    "a game that does not exist": (
        {"tasks": [{**PONG, "env": {"id": "mpi_ltcr/Atari-v0", "kwargs": {"game": "Pongg"}}}]},
        ["Pongg", "did you mean pong"],
    ),
    "a game without a name": ({"tasks": [{**PONG, "env": {"id": "mpi_ltcr/Atari-v0"}}]}, ["game"]),
    "an environment that does not exist": (
        {"tasks": [{"name": "a", "env": {"id": "CartPole-v7"}}]},
        ["env.id", "CartPole-v7", "CartPole-v1"],
    ),
    "an environment without actions to choose from": (
        {"tasks": [{"name": "a", "env": {"id": "Pendulum-v1"}}]},
        ["env.id", "Pendulum-v1", "Discrete"],
    ),
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder without a launcher, in which no job may start."""

    def started(*asked: Any) -> None:
        raise AssertionError(f"a job was started: {asked}")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "run_job", started)
    for name in [name for name in os.environ if name.startswith(("PMI", "OMPI_", "SLURM_"))]:
        monkeypatch.delenv(name)
    return tmp_path


@pytest.mark.parametrize("case", CASES)
def test_it_is_refused_in_one_line_that_names_the_field_before_anything_is_written(case, here, monkeypatch, capfd):
    changed, says = CASES[case]
    path = config_file(here, "run.yaml", **changed)
    monkeypatch.setenv("PMI_SIZE", "2")
    with pytest.raises(SystemExit) as end:
        cli.main(["train", "--config", str(path)])
    out, err = capfd.readouterr()
    assert end.value.code == 2
    assert err.startswith("mpi-ltcr: error: ")
    assert err.count("\n") == 1, err
    assert [words for words in says if words not in err] == [], err
    assert "class_path" not in err
    assert out == ""
    assert list(here.iterdir()) == [path]


def test_the_same_harness_lets_a_good_file_through(here, monkeypatch):
    monkeypatch.setenv("PMI_SIZE", "4")
    path = config_file(here, "run.yaml", tasks=[POLE, learns(t1=5, t2=5, t_stop=6)])
    with pytest.raises(AssertionError, match="a job was started"):
        cli.main(["train", "--config", str(path)])


@pytest.mark.parametrize("size", [2, 8])
def test_offline_alignment_is_for_one_process(size, here, monkeypatch, capfd):
    monkeypatch.setenv("PMI_SIZE", str(size))
    with pytest.raises(SystemExit):
        cli.main(["train", "small-cdrl-offline-align"])
    assert f"program: align is for one process, {size} started" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--teacher.checkpoint", "", "--teacher.task", ""], "teacher.checkpoint"),
        (["--expert.task", ""], "checkpoint and task belong together"),
        (["--frames", "100"], "frames: 100"),
        (["--batch", "0"], "batch"),
    ],
)
def test_what_offline_alignment_lacks_is_named(arguments, says, here, capfd):
    with pytest.raises(SystemExit) as end:
        cli.main(["train", "small-cdrl-offline-align", *arguments])
    err = capfd.readouterr().err
    assert end.value.code == 2
    assert says in err
    assert err.count("\n") == 1


def test_a_plan_with_a_teacher_that_is_not_there_is_refused_in_one_line(here, capfd):
    with pytest.raises(SystemExit) as end:
        cli.main(["train", "small-cdrl-kd-gae", "--plan"])
    out, err = capfd.readouterr()
    assert (end.value.code, out) == (2, "")
    assert err == (
        "mpi-ltcr: error: tasks.teachers.checkpoint: runs/small-a3c-pong is not a run directory (no config.yaml)\n"
    )


def test_a_plan_tells_how_many_games_a_worker_plays(here, capfd):
    for copies, words in ((1, ", worker 0\n"), (8, ", worker 0 in 8 games\n")):
        cli.main(["train", "small-a3c-pong", "--tasks", f"[{{env: {{copies: {copies}}}}}]", "--plan"])
        assert words in capfd.readouterr().out


def test_numbers_out_of_range_are_found_in_tasks_too():
    with pytest.raises(ConfigError, match="out of range"):
        CA3CConfig(tasks=[TaskConfig(name="a")], frames=2**70)


@pytest.mark.parametrize(
    ("teacher", "layer", "says"),
    [
        ("blind", "network", "tasks.teachers.task: blind sees (2,)"),
        ("three", "identity", "identity is impossible from 3 actions"),
        ("ltcr", "network", "none of cA3C"),
        ("damaged", "network", "sha256"),
    ],
)
def test_a_real_process_refuses_a_teacher_that_does_not_fit_before_anything_is_written(
    teacher, layer, says, start, tmp_path
):
    """Of other observations, another number of actions, another format; damaged."""
    tasks = {"blind": {"name": "blind", "env": {"id": "toy_envs:Blind-v0"}}, "three": {**POLE3, "name": "three"}}
    run = certificate(tmp_path / "teacher", tasks=[tasks.get(teacher, {**POLE, "name": teacher})])
    if teacher == "ltcr":
        (run / "config.yaml").write_text(options.to_yaml(options.load(["ltcr-cartpole-9-1"])[0]))
    if teacher == "damaged":
        path = run / "checkpoints" / "damaged" / "step_000000100" / "server.h5"
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    given = {"task": teacher, "checkpoint": str(run), "align": layer}
    path = config_file(tmp_path, "run.yaml", server="shared", tasks=[{**POLE, "teachers": [given]}])
    job = start(0, ["-m", "mpi_ltcr", "train", "--config", str(path), "--out", str(tmp_path / "run")],
                env={"PYTHONPATH": str(Path(__file__).parent.parent)})  # fmt: skip
    done = job.finish(100)
    assert done.rc == 2
    assert [line for line in done.err.splitlines() if line] == [line for line in done.err.splitlines() if says in line]
    assert done.err.startswith("mpi-ltcr: error: tasks.teachers")
    assert not (tmp_path / "run").exists()


def test_presets_are_short_and_every_line_that_is_not_plain_tells_its_source():
    for name in PRESETS:
        text = options.preset_path(name).read_text()
        assert len(text.splitlines()) < 40, name
        assert text.startswith("# "), name
        assert yaml.safe_load(text)["program"] in ("ca3c", "align")
