"""At whichever call a process dies or the disk fails, what is left is the previous state or the new one, whole.

Killing at random moments finds nothing (150 of 150 survived an unsafe way of writing); killing at every call does.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import preloadable
from fault_report import ALL, LARGE, Tally, memory_folder

pytestmark = pytest.mark.timeout(1800)

SCRIPTS = Path(__file__).parent / "scripts"
ERRORS = {"ENOSPC": 28, "EIO": 5, "EDQUOT": 122, "EROFS": 30}


@pytest.fixture(scope="session")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that makes a disk fail at a chosen call."""
    return preloadable(SCRIPTS / "crash.c", tmp_path_factory.mktemp("disk"))


@pytest.fixture
def memory() -> Iterator[Path]:
    with memory_folder() as folder:
        yield folder


def enumerate_crashes(disk: Path, folder: Path, mode: str, stride: int, thing: str = "save") -> dict:
    argv = [sys.executable, str(SCRIPTS / "enumerate_crashes.py"), str(folder), mode, str(stride), thing]
    env = {**os.environ, "LD_PRELOAD": str(disk)}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def assert_whole_states(found: dict, tally: Tally) -> None:
    """After each crash point a whole state was there."""
    good = sum(found["ends"].values())
    tally.add(found["points"], expected=good)
    assert found["calls"] > 100
    assert set(found["ends"]) <= {"previous", "new"}
    assert (found["lost"], good) == ([], found["points"])


@pytest.mark.parametrize(
    ("mode", "stride"),
    [
        pytest.param("kill", 16, marks=pytest.mark.fault("C22", "SIGKILL before a call that changes a file")),
        pytest.param("torn", 12, marks=pytest.mark.fault("C22", "SIGKILL after half of a write")),
    ],
)
def test_killed_before_any_call_or_in_the_midst_of_it_the_previous_or_the_new_state_is_there(
    mode: str, stride: int, disk: Path, memory: Path, tally: Tally
) -> None:
    found = enumerate_crashes(disk, memory, mode, 1 if ALL else stride)
    assert_whole_states(found, tally)
    assert set(found["codes"]) == {"-9"}
    assert set(found["ends"]) == {"previous", "new"} or not ALL


SERVERS = "the last save of a cA3C server"


@pytest.mark.parametrize(
    ("mode", "stride"),
    [
        pytest.param("kill", 32, marks=pytest.mark.fault("C22", f"SIGKILL before a call of {SERVERS}")),
        pytest.param("torn", 1, marks=[LARGE, pytest.mark.fault("C22", f"SIGKILL after half of a write of {SERVERS}")]),
    ],
)
def test_a_server_that_is_killed_in_its_last_save_leaves_the_previous_or_the_new_state(
    mode: str, stride: int, disk: Path, memory: Path, tally: Tally
) -> None:
    """The one save that goes another way than a session's: its draft changes its name."""
    found = enumerate_crashes(disk, memory, mode, 1 if ALL else stride, "server")
    good = sum(found["ends"].values())
    tally.add(found["points"], expected=good)
    assert (found["lost"], good) == ([], found["points"])
    assert set(found["codes"]) == {"-9"}
    assert set(found["ends"]) == {"previous", "new"} or not ALL


WRITES_TWICE = """\
import os, sys
file = os.open(sys.argv[1] + "/draft", os.O_CREAT | os.O_WRONLY)
for text in (b"one", b"two"):
    os.write(file, text)
    os.fsync(file)
os.rename(sys.argv[1] + "/draft", sys.argv[1] + "/whole")
"""


@pytest.mark.parametrize(("mode", "calls"), [("kill", 6), ("torn", 2)])
def test_only_writes_count_as_calls_that_can_be_torn(
    mode: str, calls: int, disk: Path, memory: Path, tmp_path: Path
) -> None:
    count = tmp_path / "calls"
    places = {"CRASH_UNDER": str(memory), "CRASH_AT": "0", "CRASH_MODE": mode, "CRASH_COUNT": str(count)}
    argv = [sys.executable, "-c", WRITES_TWICE, str(memory)]
    subprocess.run(argv, env={**os.environ, "LD_PRELOAD": str(disk), **places}, check=True)
    assert int(count.read_text()) == calls


@pytest.mark.parametrize(
    ("error", "stride"),
    [
        pytest.param(error, stride, marks=[pytest.mark.fault("C24", f"{error} from a call that changes a file"), *more])
        for error, stride, more in (("ENOSPC", 20, []), ("EIO", 24, []), ("EDQUOT", 1, [LARGE]), ("EROFS", 1, [LARGE]))
    ],
)
def test_whichever_call_fails_the_error_is_told_and_the_previous_or_the_new_state_is_there(
    error: str, stride: int, disk: Path, memory: Path, tally: Tally
) -> None:
    found = enumerate_crashes(disk, memory, str(ERRORS[error]), 1 if ALL else stride)
    assert_whole_states(found, tally)
    assert set(found["codes"]) <= {"0", "74"}, "it crashed instead of telling"


PERSISTENT = """\
import ctypes, pathlib, sys
import h5py, numpy as np
from mpi_ltcr.archive.atomic import write_hdf5

disk, folder = ctypes.CDLL(None), pathlib.Path(sys.argv[1])
def write(value):
    write_hdf5(folder / "a.h5", lambda file: [file.create_dataset(name, data=np.full(700, value)) for name in "xyz"])

failed = 0
for k in range(1, 20):
    write(0.0)
    disk.crash_arm(str(folder).encode(), ctypes.c_long(k), b"28")
    try:
        write(1.0)
    except OSError as error:
        assert error.errno == 28, error
        failed += 1
    disk.crash_arm(b"", ctypes.c_long(0), b"kill")
    with h5py.File(folder / "a.h5") as file:
        assert len({float(x) for name in "xyz" for x in file[name][:]}) == 1
    assert len(list(folder.iterdir())) <= 2
print(failed)
"""


def test_a_process_that_meets_a_full_disk_again_and_again_goes_on_and_never_publishes_half_a_file(
    disk: Path, memory: Path
) -> None:
    """HDF5 itself would end in a segmentation fault, or swallow the error and leave zeros."""
    argv = [sys.executable, "-c", PERSISTENT, str(memory)]
    done = subprocess.run(
        argv, env={**os.environ, "LD_PRELOAD": str(disk)}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) >= 8
