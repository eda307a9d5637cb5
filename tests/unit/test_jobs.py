"""The batch files decide rightly: what they start, what they hand on, when they requeue. SLURM and the program are
played by small scripts here; `tests/slurm` has a real SLURM."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from mpi_ltcr import options

REQUEUE_LOOP = pytest.mark.fault(
    "B17", "a requeue loop, without progress or too often (a played scheduler; tests/slurm has a real one)"
)
ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """\
#!/bin/bash
echo "mpi-ltcr $*" >> "$TAPE"
if [ "$1" = status ]; then
    exit "$(cat "$2/code")"
fi
run=$2
for ((n = 1; n <= $#; n++)); do
    [ "${!n}" != --out ] || { n=$((n + 1)); run=${!n}; }
done
mkdir -p "$run/checkpoints"
touch "$run/config.yaml" "$run/status.json"
trap 'echo USR1 >> "$TAPE"; PLAYED=85; asked=yes' USR1
if [ -n "$WAITS" ]; then
    touch "$TAPE.ready"
    while [ -z "$asked" ]; do sleep 0.05; done
fi
[ -z "$SAVES" ] || mkdir -p "$run/checkpoints/$SAVES"
echo "$PLAYED" > "$run/code"
exit "${EXITS:-$PLAYED}"
"""
"""Saves `checkpoints/$SAVES`, says that it ended with `$PLAYED` and ends with `$EXITS`; with `$WAITS`, after USR1."""

LAUNCHER = """\
#!/bin/bash
echo "${0##*/} $*" >> "$TAPE"
while [ "${1##*/}" != mpi-ltcr ]; do shift; done
exec "$@"
"""
NOTE = """\
#!/bin/bash
echo "${0##*/} $*" >> "$TAPE"
"""


class Ended(NamedTuple):
    """How a batch file ended, what it said, and what it called in this order."""

    rc: int
    err: str
    tape: list[str]


class Site:
    """A copy of jobs/ in a folder, with a SLURM and a program that only take notes."""

    def __init__(self, root: Path) -> None:
        self.root, self.tape = root, root / "tape"
        shutil.copytree(ROOT / "jobs", root / "jobs")
        for name, text in {"mpi-ltcr": PROGRAM, "srun": LAUNCHER, "mpirun": LAUNCHER, "scontrol": NOTE}.items():
            self.install(name, text)
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("SLURM_")},
            **{"TAPE": str(self.tape), "VENV": str(root / "venv"), "SLURM_SUBMIT_DIR": str(root)},
            **{"SLURM_JOB_ID": "71", "SLURM_NTASKS": "2", "PLAYED": "0", "SAVES": "", "WAITS": ""},
            "PATH": f"{root}/venv/bin:/usr/bin:/bin",
        }

    def install(self, name: str, text: str) -> None:
        path = self.root / "venv" / "bin" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def begin(self, file: str, *argv: str, **variables: str) -> subprocess.Popen[str]:
        """As slurmd runs a batch file: a copy, far from the repository."""
        self.tape.unlink(missing_ok=True)
        copy = shutil.copy(self.root / "jobs" / file, self.root / "slurm_script")
        return subprocess.Popen(
            ["bash", copy, *argv], env={**self.env, **variables}, cwd="/", stderr=subprocess.PIPE, text=True
        )

    def end(self, job: subprocess.Popen[str]) -> Ended:
        _, err = job.communicate(timeout=60)
        return Ended(job.returncode, err, self.tape.read_text().splitlines() if self.tape.exists() else [])

    def run(self, file: str, *argv: str, **variables: str) -> Ended:
        return self.end(self.begin(file, *argv, **variables))

    def run_with(self, number: int, **variables: str) -> Ended:
        """A job that gets a signal in the midst of training, as from SLURM: the batch shell alone."""
        job = self.begin("train.sbatch", "some-preset", WAITS="yes", SAVES="step_000000100", **variables)
        deadline = time.monotonic() + 30
        while not Path(f"{self.tape}.ready").exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        job.send_signal(number)
        return self.end(job)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


RUN = "runs/some-preset-71"


def test_a_job_trains_by_srun_into_a_directory_named_after_it_and_ends_as_the_run_did(site: Site) -> None:
    ended = site.run("train.sbatch", "some-preset", "--agent.lr", "3e-4", "--note", "two words", SAVES="step_000000400")
    trained = f"mpi-ltcr train some-preset --agent.lr 3e-4 --note two words --out {RUN}"
    assert ended == (0, "", [f"srun --mpi=pmi2 {trained}", trained, f"mpi-ltcr status {RUN} --exit-code"])


def test_mpirun_cpus_and_gpus_are_asked_for_as_the_site_says(site: Site) -> None:
    ended = site.run("train.sbatch", "some-preset", LAUNCH="mpirun")
    assert ended.tape[0].startswith("mpirun -n 2 mpi-ltcr train some-preset")
    ended = site.run("ca3c.sbatch", "other", GPUS_PER_TASK="1", SLURM_CPUS_PER_TASK="4", SRUN_MPI="pmix")
    assert ended.tape[0].startswith("srun --mpi=pmix --gpus-per-task=1 --cpus-per-task=4 mpi-ltcr train other")


@pytest.mark.parametrize("out", [["--out", "runs/mine"], ["--out=runs/mine"]])
def test_a_named_directory_is_used_and_the_second_attempt_goes_on_in_it(site: Site, out: list[str]) -> None:
    site.run("train.sbatch", "some-preset", *out, "--seed", "2", SAVES="step_000000100")
    ended = site.run("train.sbatch", "some-preset", *out, "--seed", "2", SLURM_RESTART_COUNT="1")
    assert ended.tape[1] == "mpi-ltcr resume runs/mine"
    assert "going on with runs/mine, frame 100" in ended.err


@pytest.mark.parametrize("file", ["seeds.sbatch", "train.sbatch", "ca3c.sbatch"])
def test_each_task_of_an_array_is_a_seed_with_a_directory_of_its_own(site: Site, file: str) -> None:
    array = {"SLURM_ARRAY_JOB_ID": "70", "SLURM_ARRAY_TASK_ID": "3"}
    ended = site.run(file, "some-preset", **array)
    assert ended.tape[1] == "mpi-ltcr train some-preset --seed 3 --out runs/some-preset-70-s3"
    ended = site.run(file, "some-preset", "--out", "runs/mine", **array)
    assert ended.tape[1] == "mpi-ltcr train some-preset --seed 3 --out runs/mine-s3"


def test_the_record_of_the_run_decides_and_not_the_exit_code_of_the_launcher(site: Site) -> None:
    assert site.run("train.sbatch", "some-preset", PLAYED="1", EXITS="0").rc == 1
    assert site.run("train.sbatch", "some-preset", "--out", "runs/b", PLAYED="0", EXITS="9").rc == 0


def test_a_run_that_never_began_ends_the_job_with_the_launchers_code(site: Site) -> None:
    site.install("mpi-ltcr", "#!/bin/bash\nexit 2\n")
    assert site.run("train.sbatch", "some-preset").rc == 2


@pytest.mark.parametrize("launch", ["srun", "mpirun"])
def test_at_the_time_limit_the_launcher_gets_usr1_and_a_run_that_came_further_is_requeued(
    site: Site, launch: str
) -> None:
    ended = site.run_with(signal.SIGUSR1, LAUNCH=launch)
    assert ended.rc == 85
    assert ended.tape[2:] == ["USR1", f"mpi-ltcr status {RUN} --exit-code", "scontrol requeue 71"]
    assert "saved at frame 100, requeued" in ended.err


def test_a_cancelled_job_saves_but_is_not_requeued_by_itself(site: Site) -> None:
    ended = site.run_with(signal.SIGTERM)
    assert ended.rc == 85
    assert "USR1" in ended.tape
    assert not any("scontrol" in call for call in ended.tape)
    assert f"submit the same again with --out {RUN}" in ended.err


@REQUEUE_LOOP
def test_without_progress_since_the_last_start_a_job_is_not_requeued(site: Site) -> None:
    site.run("train.sbatch", "some-preset", SAVES="step_000000100")
    ended = site.run("train.sbatch", "some-preset", SAVES="step_000000100", PLAYED="85", SLURM_RESTART_COUNT="1")
    assert ended.rc == 85
    assert not any("scontrol" in call for call in ended.tape)
    assert "no progress since frame 100" in ended.err


@REQUEUE_LOOP
@pytest.mark.parametrize(("restarts", "requeued"), [("2", True), ("3", False), ("11", False)])
def test_a_job_is_requeued_fewer_than_max_requeue_times(site: Site, restarts: str, requeued: bool) -> None:
    variables = {"MAX_REQUEUE": "3", "SLURM_RESTART_COUNT": restarts}
    ended = site.run("train.sbatch", "some-preset", SAVES="step_000000100", PLAYED="85", **variables)
    assert ("scontrol requeue 71" in ended.tape) == requeued
    assert ("MAX_REQUEUE is 3" in ended.err) == (not requeued)


@pytest.mark.parametrize("code", ["0", "2", "65", "70", "74", "75", "77", "1"])
def test_a_run_that_was_not_preempted_is_not_requeued(site: Site, code: str) -> None:
    ended = site.run("train.sbatch", "some-preset", SAVES="step_000000100", PLAYED=code)
    assert ended.rc == int(code)
    assert not any("scontrol" in call for call in ended.tape)


@pytest.mark.fault("B18", "no scontrol on the PATH (a played scheduler; tests/slurm has a real one)")
def test_without_scontrol_the_job_says_how_to_go_on(site: Site) -> None:
    (site.root / "venv" / "bin" / "scontrol").unlink()
    tools = "bash mkdir mktemp touch sed awk cat mv rm"  # and whatever SLURM the machine has is hidden
    for tool in tools.split():
        os.symlink(shutil.which(tool) or tool, site.root / "venv" / "bin" / tool)
    path = {"PATH": f"{site.root}/venv/bin"}
    ended = site.run("train.sbatch", "some-preset", SAVES="step_000000100", PLAYED="85", **path)
    assert ended.rc == 85
    assert "no scontrol on this node" in ended.err
    assert f"--out {RUN}" in ended.err


def test_progress_of_any_task_of_ca3c_counts(site: Site) -> None:
    out = ("--out", "runs/mine")
    site.run("ca3c.sbatch", "other", *out, SAVES="pong/step_000009000")
    (site.root / "runs/mine/checkpoints/pong/step_000008000").mkdir()
    ended = site.run("ca3c.sbatch", "other", *out, SAVES="bowling/step_000000500", PLAYED="85", SLURM_RESTART_COUNT="1")
    assert "saved at frame 9500, requeued" in ended.err


def test_after_an_attempt_without_a_checkpoint_a_requeued_job_begins_anew_and_keeps_what_there_was(site: Site) -> None:
    site.run("train.sbatch", "some-preset", PLAYED="1")
    ended = site.run("train.sbatch", "some-preset", SLURM_RESTART_COUNT="1", SAVES="step_000000100")
    assert ended.tape[1] == f"mpi-ltcr train some-preset --out {RUN}"
    assert (site.root / f"{RUN}.unsaved1" / "config.yaml").exists()
    ended = site.run("train.sbatch", "some-preset", "--out", "runs/b", PLAYED="1")
    ended = site.run("train.sbatch", "some-preset", "--out", "runs/b")  # another job: that run may be somebody's
    assert ended.tape[1] == "mpi-ltcr resume runs/b"


# Submitting


@pytest.fixture
def queue(site: Site) -> Site:
    """A site whose sbatch takes notes and hands out numbers."""
    site.install("sbatch", f"{NOTE}wc -l < $TAPE\n")
    site.install("mpi-ltcr", NOTE)
    return site


def submit(site: Site, *argv: str, **variables: str) -> Ended:
    site.tape.unlink(missing_ok=True)
    argv = ("bash", str(site.root / "jobs" / argv[0]), *argv[1:])
    done = subprocess.run(argv, env={**site.env, **variables}, capture_output=True, text=True, check=False)
    return Ended(done.returncode, done.stderr, site.tape.read_text().splitlines() if site.tape.exists() else [])


def test_submit_checks_the_command_and_adds_what_the_site_asks_for(queue: Site) -> None:
    asked = ("--qos", "long", "-n", "4", "jobs/seeds.sbatch", "some-preset", "--agent.lr", "1e-3")
    site = {"PARTITION": "gpu", "ACCOUNT": "me", "GPUS_PER_TASK": "1", "SBATCH_OPTIONS": "--time=9 --mem-per-cpu=4G"}
    ended = submit(queue, "submit.sh", *asked, **site)
    check, submitted = ended.tape
    assert check == "mpi-ltcr train some-preset --agent.lr 1e-3 --plan"
    own = "--time=9 --mem-per-cpu=4G --partition=gpu --account=me --gpus-per-task=1"
    assert submitted == f"sbatch {own} {' '.join(asked)}"


@pytest.mark.parametrize(
    ("options", "file", "tasks"),
    [
        (["-n", "4"], "train", 4),
        (["-n4", "-N", "2"], "train", 4),
        (["--ntasks=18"], "ca3c", 18),
        ([], "ca3c", 9),
        (["-N", "1"], "train", 2),
    ],
)
def test_submit_has_the_command_checked_for_as_many_ranks_as_it_asks_for(
    options: list[str], file: str, tasks: int, queue: Site
) -> None:
    queue.install("mpi-ltcr", '#!/bin/bash\necho "for $PMI_SIZE" >> "$TAPE"\n')
    assert submit(queue, "submit.sh", *options, f"jobs/{file}.sbatch", "some-preset").tape[0] == f"for {tasks}"


def test_submit_says_how_to_get_a_program_that_is_not_there(queue: Site) -> None:
    ended = submit(queue, "submit.sh", "jobs/train.sbatch", "some-preset", VENV="/nowhere")
    assert (ended.rc, ended.tape) == (2, [])
    assert "no mpi-ltcr in /nowhere: bash jobs/install.sh mpich makes one" in ended.err


def test_submit_does_not_queue_what_the_program_refuses(queue: Site) -> None:
    queue.install("mpi-ltcr", "#!/bin/bash\necho 'mpi-ltcr: error: agent.lr: -1' >&2\nexit 2\n")
    ended = submit(queue, "submit.sh", "jobs/train.sbatch", "some-preset", "--agent.lr", "-1")
    assert ended == (2, "mpi-ltcr: error: agent.lr: -1\n", [])
    assert submit(queue, "submit.sh", "some-preset").rc == 2


@pytest.mark.parametrize("small", ["", "small-"])
def test_the_experiments_of_cdrl_are_submitted_after_what_they_need_and_on_the_ranks_that_they_ask_for(
    queue: Site, small: str
) -> None:
    ended = submit(queue, "cdrl.sh", *filter(None, [small]))
    assert ended.rc == 0, ended.err
    calls = [line for line in ended.tape if line.startswith("sbatch")]
    number = {line.split("ca3c.sbatch ")[1].split()[0]: str(ended.tape.index(line) + 1) for line in calls}
    assert len(number) >= 11
    presets = {name for name in options.preset_names() if re.match(rf"{small}(a3c|cdrl)-", name)}
    assert set(number) <= presets
    for line in calls:
        preset, out = re.search(r"ca3c\.sbatch (\S+) --out (\S+)$", line).groups()
        assert out == f"runs/{preset}"
        config, _ = options.load([preset])
        ranks = getattr(config, "ranks", 1)
        assert f"-n {ranks} " in line, line
        needed = {Path(found).name for found in re.findall(r"runs/[\w-]+", options.to_yaml(config)) if found != out}
        waits = re.search(r"afterok:(\S+)", line)
        ids = set(waits.group(1).split(":")) if waits else set()
        assert {number[name] for name in needed} <= ids | reached(calls, number, ids), line


def reached(calls: list[str], number: dict[str, str], ids: set[str]) -> set[str]:
    """The jobs that those jobs wait for."""
    found = set()
    for line in calls:
        waits = re.search(r"afterok:(\S+)", line)
        if waits and number[line.split("ca3c.sbatch ")[1].split()[0]] in ids:
            found |= set(waits.group(1).split(":"))
    return found
