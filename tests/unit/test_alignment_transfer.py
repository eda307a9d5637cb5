"""Deep knowledge distillation: when which gradient is sent, what a teacher sees, and which teachers are refused."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ca3c_helpers import POLE, POLE3, certificate, config_of, differences, save, saved, slices, steepen

from mpi_ltcr import assembly_ca3c as assembly
from mpi_ltcr import options
from mpi_ltcr.archive import checkpoint
from mpi_ltcr.archive.rundir import RunDirectory
from mpi_ltcr.comm.parameter_server import ServerLink
from mpi_ltcr.config import AlignConfig, CA3CConfig, Config, ConfigError
from mpi_ltcr.interaction import Episode, explore_rollout
from mpi_ltcr.interfaces import Metrics, Rollout
from mpi_ltcr.nets.alignment import AlignmentNetwork
from mpi_ltcr.nets.flat import FlatParameters, flatten
from mpi_ltcr.programs.ca3c import ca3c
from mpi_ltcr.transfer.alignment import Alignment

torch.set_num_threads(1)

BLIND = {"name": "blind", "env": {"id": "toy_envs:Blind-v0"}}


def student(folder: Path, teachers: list[dict[str, Any]], task: dict[str, Any] = POLE, **changed: Any) -> CA3CConfig:
    """A run whose one task has these teachers."""
    return config_of(folder / "student", tasks=[{**task, "teachers": teachers}], **changed)


class Bench:
    """A worker without a server: weights of its store, gradients into a box, one turn after another."""

    def __init__(self, config: CA3CConfig, task: int = 0, newest: Any = None) -> None:
        described = config.tasks[task]
        teachings = [assembly.load_teaching(config, described, teacher) for teacher in described.teachers]
        self.store = assembly.build_store(config, task, teachings)
        self.link = ServerLink(comm=None, server=0, kinds=list(self.store.sizes), values=0, patience_s=1)  # type: ignore[arg-type]
        fetch = newest or [None] * len(teachings)
        self.worker = assembly.build_worker(config, described, 0, teachings, fetch, self.link.stage, lambda: None)
        steepen(self.store.values, config, task)
        self.worker.load_values(self.store.values)
        self.turns: list[tuple[int, set[str]]] = []
        self.limit = int(config.frames)
        self.frames = 0

    def exchanges(self) -> Iterator[int]:
        while self.frames < self.limit:
            yield self.frames

    def record(self, rollout: Rollout, ended: list[Episode], learned: list[Metrics]) -> None:
        self.frames += len(rollout.actions)
        self.turns.append((self.frames, set(self.staged())))

    def staged(self) -> dict[str, np.ndarray]:
        """Take what would be in the next message."""
        staged = {kind: self.link._gradients[kind].copy() for kind in self.link._staged}
        self.link._staged.clear()
        return staged

    def rollout(self) -> Rollout:
        return explore_rollout(self.worker.games, self.worker.agent, self.worker.rollout_length)[0]


# T1, T2, t_stop


@pytest.mark.parametrize("length", [1, 10])
@pytest.mark.parametrize(("t1", "t2", "t_stop"), [(0, 0, None), (7, 7, 20), (12, 23, 30), (1, 35, None), (5, 20, 21)])
def test_from_t1_on_it_aligns_from_t2_on_it_distils_and_at_t_stop_both_end_exact_to_the_step(
    t1, t2, t_stop, length, tmp_path
):
    teacher = certificate(tmp_path / "teacher")
    given = {"task": "pole", "checkpoint": str(teacher), "t1": t1, "t2": t2, "t_stop": t_stop}
    agent = {"torso": "mlp", "hidden": [4], "lstm": 4, "rollout": length}
    bench = Bench(student(tmp_path, [given], frames=40, agent=agent))
    ca3c(bench.worker, bench)  # type: ignore[arg-type]
    for frames, kinds in bench.turns:  # line 14 counts the rollout's steps before lines 25 and 29 look at T
        running = t_stop is None or frames < t_stop
        assert ("align0" in kinds) == (frames >= t1 and running), frames
        assert ("distill" in kinds) == (frames >= t2 and running), frames
        assert "rl" in kinds
    assert length > 1 or [frames for frames, _ in bench.turns] == list(range(1, 41))
    assert len({frozenset(kinds) for _, kinds in bench.turns}) > 1 or (t1, t2, t_stop) == (0, 0, None)


def test_without_rl_a_student_sends_nothing_before_t1_and_no_rl_gradient_after(tmp_path):
    teacher = certificate(tmp_path / "teacher")
    given = {"task": "pole", "checkpoint": str(teacher), "t1": 20, "t2": 40}
    bench = Bench(student(tmp_path, [given], task={**POLE, "rl": False}, frames=60))
    ca3c(bench.worker, bench)  # type: ignore[arg-type]
    assert {frozenset(kinds) for frames, kinds in bench.turns if frames < 20} == {frozenset()}
    assert {frozenset(kinds) for frames, kinds in bench.turns if frames >= 40} == {frozenset({"align0", "distill"})}


# What the teacher sees


def network_of(run: Path, task: str, config: CA3CConfig) -> Any:
    store = saved(run, task)["store"]
    described = next(t for t in config.tasks if t.name == task)
    net = assembly.build_network(config.agent, assembly.spec_of(described.env), torch.Generator())
    flatten(net).values.copy_(torch.from_numpy(store["values"]))
    return net


def scaled(obs: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(obs * np.array([1 / 2.4, 1 / 5, 12 / math.pi, 1 / (2 * math.pi)], np.float32))


def test_a_teacher_with_its_own_state_sees_a_cut_up_episode_as_if_it_saw_it_at_once(tmp_path):
    run = certificate(tmp_path / "teacher", agent={"torso": "mlp", "hidden": [9], "lstm": 7})
    bench = Bench(student(tmp_path, [{"task": "pole", "checkpoint": str(run)}]))
    (lesson,) = bench.worker.transfers
    rollouts, heard = [], []
    for _ in range(12):
        rollouts.append(bench.rollout())
        heard.append(lesson.logits(rollouts[-1]).numpy())

    source = options.load_file(run / "config.yaml")
    net = network_of(run, "pole", source)
    starts = [i for i, rollout in enumerate(rollouts) if rollout.first[0]]
    assert len(starts) > 2
    longest = 0
    for start, end in zip(starts, [*starts[1:], len(rollouts)], strict=True):
        episode = scaled(np.concatenate([r.obs for r in rollouts[start:end]]))
        with torch.no_grad():
            whole = net.unroll(episode, net.initial_state()).policy.numpy()
        np.testing.assert_allclose(np.concatenate(heard[start:end]), whole, atol=1e-5)
        longest = max(longest, end - start)
    assert longest > 1  # an episode of several rollouts was among them
    apart = net.unroll(scaled(rollouts[starts[1] - 1].obs), net.initial_state()).policy.detach().numpy()
    assert longest == 1 or rollouts[starts[1] - 1].first[0] or np.abs(apart - heard[starts[1] - 1]).max() > 1e-4


def test_with_the_parity_switch_a_teacher_begins_each_rollout_with_the_students_state(tmp_path):
    run = certificate(tmp_path / "teacher")
    bench = Bench(student(tmp_path, [{"task": "pole", "checkpoint": str(run), "state": "student"}]))
    net = network_of(run, "pole", options.load_file(run / "config.yaml"))
    (lesson,) = bench.worker.transfers
    unlike = 0
    for _ in range(6):
        rollout = bench.rollout()
        heard = lesson.logits(rollout).numpy()
        with torch.no_grad():
            expected = net.unroll(scaled(rollout.obs), rollout.start).policy.numpy()
            own = net.unroll(scaled(rollout.obs), net.initial_state()).policy.numpy()
        np.testing.assert_allclose(heard, expected, atol=1e-6)
        unlike += bool(np.abs(heard - own).max() > 1e-4)
    assert unlike > 0


def test_a_teacher_reads_observations_in_the_scale_in_which_it_learned_them(tmp_path):
    """The student's environment is not in our table and has none."""
    run = certificate(tmp_path / "teacher")
    bench = Bench(student(tmp_path, [{"task": "pole", "checkpoint": str(run)}], task=POLE3))
    rollout = bench.rollout()
    net = network_of(run, "pole", options.load_file(run / "config.yaml"))
    expected = net.unroll(scaled(rollout.obs), net.initial_state()).policy.detach().numpy()
    np.testing.assert_allclose(bench.worker.transfers[0].logits(rollout).numpy(), expected, atol=1e-6)


def test_a_certificated_teacher_stays_as_it_is_and_a_collaborative_one_is_fetched_once_a_rollout(tmp_path):
    pair = [{**POLE, "name": "a"}, {**POLE, "name": "b", "teachers": [{"task": "a"}]}]
    config = config_of(tmp_path / "pair", tasks=pair)
    newest: list[np.ndarray] = []
    size = assembly.build_store(config, 0, []).network

    def fetch() -> np.ndarray:
        newest.append(np.full(size, len(newest) / 100, np.float32))
        return newest[-1]

    bench = Bench(config, task=1, newest=[fetch])
    (lesson,) = bench.worker.transfers
    for turn in range(3):
        lesson.logits(bench.rollout())
        assert len(newest) == turn + 1
        assert (lesson.teacher.flat.values.numpy() == newest[-1]).all()

    run = certificate(tmp_path / "teacher")
    certified = Bench(student(tmp_path, [{"task": "pole", "checkpoint": str(run)}], frames=50))
    ca3c(certified.worker, certified)  # type: ignore[arg-type]
    values = saved(run, "pole")["store"]["values"]
    assert certified.worker.transfers[0].teacher.flat.values.numpy().tobytes() == values.tobytes()


# F


def lesson_gradient(bench: Bench, rollout: Rollout, index: int) -> dict[str, np.ndarray]:
    """What one teacher of a worker stages, alone."""
    lesson = bench.worker.transfers[index]
    logits = lesson.logits(rollout)
    aligned = lesson.align(logits)
    lesson.align.train(aligned, bench.worker.agent.outputs(rollout).policy)
    bench.worker.agent.mimic(rollout, aligned, lesson.temperature, lesson.layer)
    return bench.staged()


def test_the_alignment_gradient_is_line_27s_and_reaches_only_the_alignment_network(tmp_path):
    run = certificate(tmp_path / "teacher")
    bench = Bench(student(tmp_path, [{"task": "pole", "checkpoint": str(run), "temperature": 2.0}], task=POLE3))
    rollout = bench.rollout()
    (lesson,) = bench.worker.transfers
    logits = lesson.logits(rollout)
    outputs = bench.worker.agent.outputs(rollout)
    told = lesson.align.train(lesson.align(logits), outputs.policy)
    staged = bench.staged()
    assert set(staged) == {"align0"}

    network = lesson.align.network
    assert network is not None
    total = torch.zeros(())
    for z, zb in zip(logits, outputs.policy.detach(), strict=True):
        p, q = torch.softmax(zb / 2, 0), torch.softmax(network(z), 0)
        total = total + sum(p[a] * torch.log(p[a] / q[a]) for a in range(3))
    loss = total / len(logits)
    expected = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(network.parameters()))])
    np.testing.assert_allclose(staged["align0"], expected.numpy(), atol=1e-6)
    assert told["align_loss"] == pytest.approx(float(loss.detach()), rel=1e-4)
    assert told["align_loss"] > 1e-3
    assert told["align_grad_norm"] == pytest.approx(float(expected.norm()), rel=1e-4)
    before = bench.store.values.copy()
    bench.store.apply("align0", staged["align0"])
    changed = bench.store.values != before
    assert not changed[: bench.store.network].any()
    assert changed[bench.store.network :].mean() > 0.3


def test_distillation_does_not_move_the_alignment_network_and_alignment_does_not_move_the_student(tmp_path):
    run = certificate(tmp_path / "teacher")
    bench = Bench(student(tmp_path, [{"task": "pole", "checkpoint": str(run)}], task=POLE3))
    staged = lesson_gradient(bench, bench.rollout(), 0)
    assert set(staged) == {"align0", "distill"}
    heads = [part for name, part in slices(bench.worker.agent.net).items() if name.split(".")[0] in ("policy", "value")]
    assert all((staged["distill"][part] == 0).all() for part in heads)
    assert {kind: len(gradient) for kind, gradient in staged.items()} == {
        kind: bench.store.sizes[kind] for kind in ("align0", "distill")
    }


def test_several_teachers_have_an_alignment_network_each_and_their_distillation_gradients_add_up(tmp_path):
    """Of different action spaces; beside them one without a network and one whose network is frozen."""
    runs = [certificate(tmp_path / "one", seed=5), certificate(tmp_path / "two", seed=6, tasks=[POLE3])]
    teachers = [
        {"task": "pole", "checkpoint": str(runs[0])},
        {"task": "pole", "checkpoint": str(runs[0]), "align": "identity"},
        {"task": "pole3", "checkpoint": str(runs[1])},
    ]
    bench = Bench(student(tmp_path, teachers))
    assert list(bench.store.sizes) == ["rl", "distill", "align0", "align1"]
    first, last = (
        len(
            flatten(
                AlignmentNetwork(num_teacher_actions=actions, num_student_actions=2, generator=torch.Generator())
            ).values
        )
        for actions in (2, 3)
    )
    assert [bench.store.sizes[kind] for kind in ("align0", "align1")] == [first, last]
    assert first != last

    rollout = bench.rollout()
    alone = [lesson_gradient(bench, rollout, index) for index in range(3)]
    assert [set(staged) - {"distill"} for staged in alone] == [{"align0"}, set(), {"align1"}]
    for lesson in bench.worker.transfers:
        lesson.teacher.recurrent = lesson.teacher.net.initial_state()
    for lesson in bench.worker.transfers:
        aligned = lesson.align(lesson.logits(rollout))
        lesson.align.train(aligned, bench.worker.agent.outputs(rollout).policy)
        bench.worker.agent.mimic(rollout, aligned, lesson.temperature, lesson.layer)
    together = bench.staged()
    assert together["distill"].tobytes() == sum(staged["distill"] for staged in alone).tobytes()
    for index, kind in ((0, "align0"), (2, "align1")):
        assert together[kind].tobytes() == alone[index][kind].tobytes()
        assert np.abs(together[kind]).max() > 0


def test_what_a_server_serves_reaches_the_network_and_each_alignment_network_in_its_place(tmp_path):
    runs = [certificate(tmp_path / "one"), certificate(tmp_path / "two", tasks=[POLE3])]
    teachers = [
        {"task": "pole", "checkpoint": str(runs[0]), "align": "identity"},
        {"task": "pole3", "checkpoint": str(runs[1])},
        {"task": "pole", "checkpoint": str(runs[0])},
    ]
    bench = Bench(student(tmp_path, teachers))
    bench.worker.load_values(np.arange(len(bench.store.values), dtype=np.float32))
    flats = [lesson.align.flat for lesson in bench.worker.transfers if lesson.align.flat is not None]
    everything = torch.cat([bench.worker.agent.flat.values, *[flat.values for flat in flats]]).numpy()
    assert (everything == np.arange(len(bench.store.values))).all()


def test_the_identity_hands_the_teachers_logits_on_and_is_never_trained(tmp_path):
    run = certificate(tmp_path / "teacher")
    given = {"task": "pole", "checkpoint": str(run), "align": "identity", "layer": "policy"}
    bench = Bench(student(tmp_path, [given]))
    assert list(bench.store.sizes) == ["rl", "distill"]
    rollout = bench.rollout()
    (lesson,) = bench.worker.transfers
    logits = lesson.logits(rollout)
    assert lesson.align(logits) is logits
    assert lesson.align.train(logits, logits) == {}
    bench.worker.agent.mimic(rollout, logits, 1.0, lesson.layer)
    staged = bench.staged()
    parts = slices(bench.worker.agent.net)
    assert set(staged) == {"distill"}
    assert np.abs(staged["distill"][parts["policy.weight"]]).max() > 0
    assert (staged["distill"][parts["distill.weight"]] == 0).all()


class Descent:
    """Plain gradient descent."""

    def __init__(self, flat: FlatParameters) -> None:
        self.flat = flat

    def step(self, loss: torch.Tensor) -> float:
        self.flat.grads.zero_()
        loss.backward()
        self.flat.values.sub_(0.2 * self.flat.grads)
        return 0.0


def test_fs_gradient_points_from_the_teacher_to_the_student_in_either_direction(tmp_path):
    """Following it for a while, the aligned policy meets the student's."""
    logits = torch.from_numpy(np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32))
    policy = torch.from_numpy(np.random.default_rng(1).normal(size=(1, 2)).astype(np.float32)).expand(30, 2)
    for direction in ("student||aligned", "aligned||student"):
        network = AlignmentNetwork(
            num_teacher_actions=3, num_student_actions=2, width=16, generator=torch.Generator().manual_seed(0)
        )
        flat = flatten(network)
        align = Alignment(network=network, flat=flat, stepper=Descent(flat), temperature=1.0, direction=direction)  # type: ignore[arg-type]
        losses = [align.train(align(logits), policy)["align_loss"] for _ in range(300)]
        assert losses[-1] < 0.02 * losses[0]
        gap = torch.softmax(align(logits), 1) - torch.softmax(policy, 1)
        assert float(gap.detach().abs().max()) < 0.05


# Offline alignment


def offline(tmp_path: Path, actions: tuple[int, int] = (2, 3)) -> tuple[Path, np.ndarray]:
    """A run of `program: align`, without training."""
    run = RunDirectory(tmp_path / "offline")
    run.create(options.to_yaml(AlignConfig()), {})
    network = AlignmentNetwork(
        num_teacher_actions=actions[0], num_student_actions=actions[1], generator=torch.Generator().manual_seed(9)
    )
    values = flatten(network).values.numpy()
    save(run.checkpoints, 10, {assembly.ALIGNMENT_FILE: {"values": values}})
    run.unlock()
    return run.root, values


def test_an_alignment_network_trained_offline_is_loaded_and_stays_frozen(tmp_path):
    teacher = certificate(tmp_path / "teacher")
    run, values = offline(tmp_path)
    given = {"task": "pole", "checkpoint": str(teacher), "alignment": str(run)}
    bench = Bench(student(tmp_path, [given], task=POLE3, frames=50))
    assert list(bench.store.sizes) == ["rl", "distill"]
    ca3c(bench.worker, bench)  # type: ignore[arg-type]
    flat = bench.worker.transfers[0].align.flat
    assert flat is not None
    assert flat.values.numpy().tobytes() == values.tobytes()
    assert {frozenset(kinds) for _, kinds in bench.turns} == {frozenset({"rl", "distill"})}


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("another shape", "holds"),
        ("no run", "not a run directory"),
        ("another program", "program: align"),
        ("a flipped bit", "sha256"),
        ("unfinished", "no whole checkpoint"),
    ],
)
def test_an_alignment_network_that_does_not_fit_is_refused_in_one_line(damage, says, tmp_path):
    teacher = certificate(tmp_path / "teacher")
    run, _ = offline(tmp_path, actions=(2, 2) if damage == "another shape" else (2, 3))
    if damage == "no run":
        run = tmp_path
    if damage == "another program":
        run = teacher
    if damage == "a flipped bit":
        flip_bit(run / "checkpoints" / "step_000000010" / assembly.ALIGNMENT_FILE)
    if damage == "unfinished":
        (run / "checkpoints" / "step_000000010" / "manifest.json").unlink()
    config = student(tmp_path, [{"task": "pole", "checkpoint": str(teacher), "alignment": str(run)}], task=POLE3)
    refused(config, "tasks.teachers.alignment: ", says)


# Who may teach


def flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def refused(config: CA3CConfig, *says: str) -> None:
    with pytest.raises(ConfigError) as error:
        assembly.load_teaching(config, config.tasks[0], config.tasks[0].teachers[0])
    text = str(error.value)
    assert [words for words in says if words not in text] == [], text
    assert "\n" not in text
    assert text.startswith("tasks.teachers")


def test_action_spaces_of_different_size_go_through_the_network_and_are_refused_without_it(tmp_path):
    run = certificate(tmp_path / "teacher", tasks=[POLE3])
    given = {"task": "pole3", "checkpoint": str(run)}
    staged = lesson_gradient(bench := Bench(student(tmp_path, [given])), bench.rollout(), 0)
    assert set(staged) == {"align0", "distill"}
    for layer in ("distill", "policy"):
        config = student(tmp_path, [{**given, "align": "identity", "layer": layer}])
        refused(config, "tasks.teachers.align: identity", "3 actions (pole3)", "2 (pole)", "align: network")


def test_a_collaborative_teacher_of_another_action_space_is_refused_without_the_network_too(tmp_path):
    pair = [{**POLE, "teachers": [{"task": "pole3", "align": "identity"}]}, POLE3]
    refused(config_of(tmp_path / "pair", tasks=pair), "identity", "3 actions (pole3)", "2 (pole)")


@pytest.mark.parametrize("certified", [True, False])
def test_a_teacher_that_cannot_see_the_students_states_is_refused(certified, tmp_path):
    if certified:
        run = certificate(tmp_path / "teacher", tasks=[BLIND])
        config = student(tmp_path, [{"task": "blind", "checkpoint": str(run)}])
    else:
        config = config_of(tmp_path / "pair", tasks=[{**POLE, "teachers": [{"task": "blind"}]}, BLIND])
    refused(config, "tasks.teachers.task: blind sees (2,)", "pole (4,)")


def test_a_certificate_gives_the_newest_weights_of_the_task_that_is_named(tmp_path):
    run = certificate(tmp_path / "teacher", tasks=[POLE, POLE3])
    store = saved(run, "pole3")
    store["store"]["values"] = store["store"]["values"] + np.float32(1)
    save(run / "checkpoints" / "pole3", 200, {assembly.SERVER_FILE: store})
    source, weights = assembly.certificate(run, "pole3", "tasks.teachers.")
    assert weights.tobytes() == store["store"]["values"].tobytes()
    assert [task.name for task in source.tasks] == ["pole", "pole3"]


def test_only_the_network_of_a_teacher_is_taken_not_its_own_alignment_networks(tmp_path):
    first = certificate(tmp_path / "first")
    bench = Bench(student(tmp_path, [{"task": "pole", "checkpoint": str(first)}]))
    run = certificate(tmp_path / "second")
    save(run / "checkpoints" / "pole", 900, {assembly.SERVER_FILE: {"store": bench.store.state()}})
    _, weights = assembly.certificate(run, "pole", "tasks.teachers.")
    assert weights.tobytes() == bench.store.values[: bench.store.network].tobytes()
    assert len(weights) < len(bench.store.values)


def test_loading_a_teacher_writes_nothing_into_its_run(tmp_path):
    run = certificate(tmp_path / "teacher")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    bench = Bench(student(tmp_path, [{"task": "pole", "checkpoint": str(run)}], frames=40))
    ca3c(bench.worker, bench)  # type: ignore[arg-type]
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def ltcr_run(tmp_path: Path) -> Path:
    run = RunDirectory(tmp_path / "ltcr")
    run.create(options.to_yaml(Config()), {})
    run.unlock()
    return run.root


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("a flipped bit", ["sha256", "server.h5"]),
        ("a flipped bit in the newer one", ["step_000000200", "sha256", "step_000000100"]),
        ("a flipped bit in the manifest", ["manifest.json"]),
        ("cut off", ["bytes, not"]),
        ("another version", ["format version 99"]),
        ("no checkpoint", ["no whole checkpoint"]),
        ("no run", ["not a run directory", "config.yaml"]),
        ("another task", ["no task pong", "pole"]),
        ("a run of LTCR", ["none of cA3C"]),
        ("another network", ["parameters"]),
    ],
)
def test_a_teacher_that_is_not_what_it_should_be_is_refused_in_one_line(damage, says, tmp_path):
    run = certificate(tmp_path / "teacher")
    folder = run / "checkpoints" / "pole" / "step_000000100"
    task = "pole"
    if damage == "a flipped bit":
        flip_bit(folder / "server.h5")
    if damage == "a flipped bit in the newer one":
        save(folder.parent, 200, {assembly.SERVER_FILE: saved(run, "pole")})
        flip_bit(folder.parent / "step_000000200" / "server.h5")
    if damage == "a flipped bit in the manifest":
        flip_bit(folder / "manifest.json")
    if damage == "cut off":
        content = (folder / "server.h5").read_bytes()
        (folder / "server.h5").write_bytes(content[:-100])
    if damage == "another version":
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(checkpoint, "FORMAT_VERSION", 99)
            save(folder.parent, 200, {assembly.SERVER_FILE: {}})
    if damage == "no checkpoint":
        (folder / "manifest.json").unlink()
    if damage == "no run":
        run = tmp_path / "nowhere"
    if damage == "another task":
        task = "pong"
    if damage == "a run of LTCR":
        run = ltcr_run(tmp_path)
    if damage == "another network":
        other = certificate(tmp_path / "other", agent={"torso": "mlp", "hidden": [8], "lstm": 8})
        save(folder.parent, 200, {assembly.SERVER_FILE: saved(other, "pole")})
    refused(student(tmp_path, [{"task": task, "checkpoint": str(run)}]), *says)


# Saved states


def test_a_teachers_recurrent_state_is_saved_and_loaded(tmp_path):
    run = certificate(tmp_path / "teacher")
    config = student(tmp_path, [{"task": "pole", "checkpoint": str(run)}])
    one, two = Bench(config), Bench(config)
    rollouts = [one.rollout()]
    while rollouts[-1].first[0] or one.worker.agent._first[0]:  # until one is followed by more of its episode
        one.worker.transfers[0].logits(rollouts[-1])
        rollouts.append(one.rollout())
    one.worker.transfers[0].logits(rollouts[-1])
    two.worker.transfers[0].load_state(one.worker.transfers[0].state())
    after = one.rollout()
    assert not after.first[0]
    heard = [bench.worker.transfers[0].logits(after) for bench in (one, two)]
    assert torch.equal(*heard)
    assert differences(one.worker.transfers[0].state(), two.worker.transfers[0].state()) == []
    fresh = Bench(config).worker.transfers[0].logits(after)
    assert not torch.equal(fresh, heard[0])
