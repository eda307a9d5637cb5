"""Who serves and who works: a pure function of sizes, told by --plan, enforced before anything starts."""

from __future__ import annotations

import re

import pytest
from ca3c_helpers import POLE, certificate, config_file
from hypothesis import given
from hypothesis import strategies as st

from mpi_ltcr import cli
from mpi_ltcr.comm.roles import ca3c_roles, ltcr_roles

COUNTS = st.lists(st.integers(1, 7), min_size=1, max_size=5)


@given(COUNTS, st.booleans())
def test_every_rank_has_one_role_and_every_task_one_server_and_all_its_workers(workers, shared):
    roles = ca3c_roles(workers, shared=shared)
    assert [role.rank for role in roles] == list(range(sum(workers) + (0 if shared else len(workers))))
    for task, count in enumerate(workers):
        mine = [role for role in roles if role.task == task]
        assert sum(role.serves for role in mine) == 1
        assert sum(role.worker is not None for role in mine) == count
    assert all(role.serves or role.worker is not None for role in roles)


@given(COUNTS, st.booleans())
def test_workers_are_numbered_through_the_run_task_after_task(workers, shared):
    roles = [role for role in ca3c_roles(workers, shared=shared) if role.worker is not None]
    assert [role.worker for role in roles] == list(range(sum(workers)))
    assert [role.task for role in roles] == [task for task, count in enumerate(workers) for _ in range(count)]


@given(COUNTS)
def test_a_dedicated_server_only_serves_and_a_shared_one_is_its_tasks_first_worker(workers):
    for role in ca3c_roles(workers, shared=False):
        assert role.serves == (role.worker is None)
        assert not role.serves or role.rank == role.task
    for role in ca3c_roles(workers, shared=True):
        assert role.serves == (role.worker == sum(workers[: role.task]))


@given(COUNTS, st.booleans())
def test_rank_0_always_serves_the_first_task(workers, shared):
    """It writes the run's status."""
    first = ca3c_roles(workers, shared=shared)[0]
    assert (first.serves, first.task) == (True, 0)


@given(st.integers(1, 50))
def test_in_ltcr_every_rank_is_the_agent_of_its_number_and_the_first_keeps_m0(size):
    roles = ltcr_roles(size)
    assert [(role.rank, role.agent) for role in roles] == [(i, i) for i in range(size)]
    assert [role.rank for role in roles if role.keeps_memory] == [0]


# --plan


@pytest.fixture
def ranks(monkeypatch: pytest.MonkeyPatch, tmp_path):
    """Pretend to be rank 0 of so many; in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def pretend(size: int) -> None:
        monkeypatch.setenv("PMI_SIZE", str(size))
        monkeypatch.setenv("PMI_RANK", "0")

    return pretend


def plan_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    cli.main(["train", *arguments, "--plan"])
    return capsys.readouterr().out


@pytest.mark.parametrize("size", [1, 4], ids=["without mpirun", "under mpirun -n 4"])
def test_the_plan_of_the_collaborative_preset_names_who_serves_who_works_and_from_whom_it_learns(
    size, ranks, capsys, tmp_path
):
    ranks(size)
    lines = plan_of(capsys, "small-cdrl-collaborative").splitlines()
    assert "4000 frames of each task, 4 ranks" in lines[0]
    assert lines[1].strip() == "rank 0: pong (mpi_ltcr/Atari-v0), serves"
    assert lines[2].strip() == "rank 1: bowling (mpi_ltcr/Atari-v0), serves"
    assert lines[3].strip() == "rank 2: pong (mpi_ltcr/Atari-v0), worker 0"
    learns = "learns from pong (its newest weights; T1 600, T2 800 until 3000)"
    assert lines[4].strip() == f"rank 3: bowling (mpi_ltcr/Atari-v0), worker 1, {learns}"
    assert lines[-1].strip() == "start it: mpirun -n 4 mpi-ltcr train ..."
    assert list(tmp_path.iterdir()) == []


def test_the_plan_tells_the_bytes_of_each_message(ranks, capsys, tmp_path):
    """Counted by hand: 4 inputs, 16 units, LSTM 16, 2 actions; F of 2 -> 4 x 512 -> 2; headers of 40 bytes."""
    ranks(1)
    teacher = certificate(tmp_path / "teacher")
    task = {**POLE, "teachers": [{"task": "pole", "checkpoint": str(teacher)}]}
    path = config_file(tmp_path, "run.yaml", server="shared", tasks=[task])
    text = plan_of(capsys, "--config", str(path))
    network = (4 + 1) * 16 + 4 * 16 * (16 + 16 + 2) + (16 + 1) * (2 + 1 + 2)
    alignment = (2 + 1) * 512 + 3 * (512 + 1) * 512 + (512 + 1) * 2
    assert f"pole: {network} parameters; {40 + 4 * (network + alignment)} bytes to a worker" in text
    sent = f"{40 + 4 * network} with rl, {40 + 4 * network} with distill, {40 + 4 * alignment} with align0"
    assert f"back: {sent}" in text
    assert "rank 0: pole (mpi_ltcr/CartPole15-v0), serves and worker 0, learns from pole" in text
    assert str(teacher) in text


@pytest.mark.parametrize(
    ("asked", "wrong", "right"),
    [
        (["small-cdrl-collaborative"], 3, 4),
        (["small-cdrl-collaborative", "--plan"], 5, 4),
        (["small-cdrl-collaborative", "--workers", "3"], 4, 8),
        (["small-cdrl-collaborative", "--workers", "3", "--server", "shared"], 8, 6),
        (["a3c-pong"], 1, 9),
        (["a3c-pong", "--server", "shared"], 9, 8),
        (["cdrl-collaborative"], 16, 18),
    ],
)
def test_a_wrong_number_of_ranks_is_refused_and_the_right_one_named(asked, wrong, right, ranks, capsys, tmp_path):
    ranks(wrong)
    with pytest.raises(SystemExit) as end:
        cli.main(["train", *asked])
    out, err = capsys.readouterr()
    assert end.value.code == 2
    words = f"need {right} ranks, {wrong} started; use mpirun -n {right}"
    assert re.fullmatch(f"mpi-ltcr: error: workers: .* {words}\n", err), err
    assert out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.mpi
def test_under_a_real_mpirun_the_plan_is_printed_once_and_a_wrong_count_refused_once(mpirun, tmp_path):
    path = config_file(tmp_path, "run.yaml", workers=2)
    done = mpirun(3, ["-m", "mpi_ltcr", "train", "--config", str(path), "--plan"], timeout=100)
    assert done.rc == 0, done.err
    assert done.out.count("rank 2: pole (mpi_ltcr/CartPole15-v0), worker 1") == 1
    done = mpirun(2, ["-m", "mpi_ltcr", "train", "--config", str(path)], timeout=100)
    assert done.rc == 2
    assert done.err.count("use mpirun -n 3") == 1
    assert "Traceback" not in done.err
