"""The log of one agent: as long as what was recorded, readable at any moment by what people use."""

from __future__ import annotations

import errno
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pandas
import pytest
import xarray
from conftest import most_memory_of
from fault_report import Tally

from mpi_ltcr.archive import atomic, reader
from mpi_ltcr.archive.atomic import USER_BLOCK, write_sealed
from mpi_ltcr.archive.recorder import Recorder
from mpi_ltcr.archive.schema import CLOCKS, TABLES, WALL_COLUMNS, WALL_TABLES, columns
from mpi_ltcr.archive.verification import verify_run

ROWS = 1000


def recorder_at(path: Path) -> Recorder:
    return Recorder(path=path, attributes={"run_id": "r", "agent": 0, "config_json": '{"seed": 4}'})


def fill(recorder: Recorder, first: int = 0, last: int = ROWS) -> None:
    for i in range(first, last):
        clocks = {"frames": 10 * i, "updates": i, "wall_s": i / 8}
        recorder.add("eval", **clocks, **{"return": i / 4, "length": i, "episode": 0, "lives": 1})
        recorder.add("train", **clocks, td_loss=float(i))
    recorder.add("events", frames=3, updates=0, wall_s=0.5, time=1e9, level="info", text=f"from {first}, ünïcode")


def seal(path: Path) -> None:
    """As a version of this program leaves its own files."""
    write_sealed(path, memoryview(path.read_bytes())[USER_BLOCK:])


GROWN = """
import os, sys
from pathlib import Path
from mpi_ltcr.archive.recorder import Recorder

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

recorder, start = Recorder(path=Path(sys.argv[1]), attributes={}), resident()
for row in range(80_000):
    clocks = {"frames": row, "updates": row, "wall_s": row / 8}
    recorder.add("train", **clocks)
    recorder.add("eval", **clocks, **{"return": 1.0, "length": 1, "episode": 0, "lives": 1})
    if row % 400 == 0:
        recorder.publish()
print(resident() - start, recorder.path.stat().st_size)
"""


@pytest.fixture
def published(tmp_path: Path) -> Path:
    recorder = recorder_at(tmp_path / "agent0000.h5")
    fill(recorder)
    recorder.publish()
    return recorder.path


def test_columns_grow_with_their_rows_and_keep_every_value(published: Path) -> None:
    table = reader.open_log(published).table("eval")
    assert table["frames"].tolist() == list(range(0, 10 * ROWS, 10))
    assert table["return"].tolist() == [i / 4 for i in range(ROWS)]
    assert table["length"].dtype == np.int64


def test_a_number_that_was_not_given_is_nan(published: Path) -> None:
    table = reader.open_log(published).table("train")
    assert table["td_loss"][7] == 7
    assert np.isnan(table["distill_loss"]).all()


def test_text_comes_back_as_text(published: Path) -> None:
    assert reader.open_log(published).table("events")["text"].tolist() == ["from 0, ünïcode"]


def test_every_table_and_column_of_the_schema_is_there_with_its_unit_even_before_the_first_row(tmp_path: Path) -> None:
    recorder_at(tmp_path / "log.h5").publish()
    with h5py.File(tmp_path / "log.h5", "r") as file:
        assert set(file) == set(TABLES)
        for name in TABLES:
            assert list(file[name]) == list(columns(name))
            for column, dataset in file[name].items():
                assert dataset.shape == (0,), column
                meta = columns(name)[column]
                assert (dataset.attrs["units"], dataset.attrs["long_name"]) == (meta.units, meta.long_name)


def test_pandas_reads_a_table_as_the_schema_says(published: Path) -> None:
    with h5py.File(published) as file:
        frame = pandas.DataFrame({name: column[:] for name, column in file["eval"].items()})
    assert list(frame.columns) == [*CLOCKS, "return", "length", "episode", "lives"]
    assert frame["return"].mean() == pytest.approx((ROWS - 1) / 8)


def test_xarray_reads_a_table_as_the_schema_says_with_frames_as_its_axis(published: Path) -> None:
    with xarray.open_dataset(published, group="eval", engine="h5netcdf") as data:
        assert data["return"].dims == ("frames",)
        assert float(data["return"].sel(frames=40)) == 1.0
        assert data["return"].attrs["units"] == "reward"


def test_a_log_takes_as_much_memory_as_it_is_long_and_no_more_for_being_published(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", GROWN, str(tmp_path / "log.h5")]
    grown, size = map(int, subprocess.run(argv, check=True, capture_output=True, text=True).stdout.split())
    assert size > 12e6
    assert grown < 1.2 * size + 2e6  # twice as much when HDF5 gave out copies


def test_a_log_carries_its_configuration(published: Path) -> None:
    assert reader.open_log(published).config == {"seed": 4}


def test_a_rewound_log_holds_each_step_once(published: Path, tmp_path: Path) -> None:
    again = recorder_at(published)
    again.rewind({**dict.fromkeys(TABLES, 0), "eval": 300, "train": 300, "events": 1})
    fill(again, first=300)
    again.publish()
    log = reader.open_log(published)
    assert log.table("eval")["frames"].tolist() == list(range(0, 10 * ROWS, 10))
    assert log.table("train")["td_loss"].tolist() == list(range(ROWS))
    assert log.table("events")["text"].tolist() == ["from 0, ünïcode", "from 300, ünïcode"]


def test_rewinding_to_nothing_is_a_new_log(published: Path) -> None:
    again = recorder_at(published)
    again.rewind(dict.fromkeys(TABLES, 0))
    assert set(again.rows().values()) == {0}
    fill(again, last=3)
    again.publish()
    assert reader.open_log(published).table("eval")["frames"].tolist() == [0, 10, 20]


def test_a_log_shorter_than_the_checkpoint_says_is_refused_with_the_table(published: Path) -> None:
    rows = {**dict.fromkeys(TABLES, 0), "eval": ROWS + 1}
    with pytest.raises(ValueError, match=f"eval has {ROWS} rows, expected {ROWS + 1}"):
        recorder_at(published).rewind(rows)


def test_a_log_of_another_format_version_is_refused_by_writer_and_reader(published: Path) -> None:
    with h5py.File(published, "r+") as file:
        file.attrs["format_version"] = 99
    seal(published)
    with pytest.raises(ValueError, match="version 99"):
        recorder_at(published).rewind(dict.fromkeys(TABLES, 0))
    with pytest.raises(reader.ReadError, match="version 99"):
        reader.open_log(published)


def test_a_log_without_a_table_of_today_is_refused_with_the_column(published: Path) -> None:
    with h5py.File(published, "r+") as file:
        del file["lives"]
    seal(published)
    with pytest.raises(ValueError, match="no lives/frames; resume with the version that wrote it"):
        recorder_at(published).rewind(dict.fromkeys(TABLES, 0))


def test_a_file_that_is_no_log_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "agent0000.h5").write_bytes(b"\x89PNG not hdf5")
    with h5py.File(tmp_path / "agent0001.h5", "w") as file:
        file.attrs["format"] = "something else"
    for name in ("agent0000.h5", "agent0001.h5", "agent0002.h5"):
        with pytest.raises(reader.ReadError, match=name):
            reader.open_log(tmp_path / name)


@pytest.mark.fault("C26", "one bit of a log flipped, or the log cut short")
def test_no_damage_to_a_log_goes_unseen(published: Path, tmp_path: Path, tally: Tally) -> None:
    (run := tmp_path / "run").mkdir()
    (run / "config.yaml").write_text("frames: 1\n")
    path = run / "logs" / "agent0000.h5"
    path.parent.mkdir()
    whole, rng = published.read_bytes(), np.random.default_rng(1)

    def problem(content: bytes) -> str:
        path.write_bytes(content)
        return dict(verify_run(run))["logs/agent0000.h5"]

    assert problem(whole) == ""
    for offset in [0, 20, 511, *rng.choice(len(whole), 300, replace=False)]:
        damaged = bytearray(whole)
        damaged[offset] ^= 1 << int(rng.integers(8))
        assert problem(bytes(damaged)), f"byte {offset}"
        assert_not_gone_on_with(path)
        tally.add()
    for size in (0, 511, 512, 600, len(whole) // 2, len(whole) - 1):
        assert problem(whole[:size]), f"{size} bytes"
        assert_not_gone_on_with(path)
        tally.add()


def assert_not_gone_on_with(path: Path) -> None:
    with pytest.raises(ValueError, match="restore it from a copy, or move it away") as refusal:
        recorder_at(path).rewind(dict.fromkeys(TABLES, 0))
    assert str(refusal.value).startswith(f"{path} ")
    assert "\n" not in str(refusal.value)


def counted(**rows: int) -> dict[str, int]:
    return dict.fromkeys(TABLES, 0) | rows


def test_a_log_that_is_gone_begins_anew_and_every_checkpoint_still_counts_the_same_rows(published: Path) -> None:
    published.unlink()
    recorder = recorder_at(published)
    assert not recorder.rewind(counted(eval=300, train=300, events=1)), "nobody would learn of it"
    assert recorder.rows() == counted(eval=300, train=300, events=1)
    assert not recorder.holds("eval")
    fill(recorder, 300, 500)
    assert recorder.rows() == counted(eval=500, train=500, events=2)
    recorder.publish()
    for rows, first, last in ((500, 300, 500), (400, 300, 400), (300, 300, 300), (200, 200, 200)):
        again = recorder_at(published)  # from the newest checkpoint, an older one, ..., one from before the loss
        assert again.rewind(counted(eval=rows, train=rows))
        assert again.rows() == counted(eval=rows, train=rows)
        fill(again, rows, rows + 50)
        again.publish()
        expected = [*range(10 * first, 10 * last, 10), *range(10 * rows, 10 * rows + 500, 10)]
        assert reader.open_log(published).table("eval")["frames"].tolist() == expected
        shutil.copy(published, published.with_name(f"{rows}.h5"))
        recorder.publish()
    with pytest.raises(ValueError, match="eval has 250 rows, expected 251; restore it"):
        recorder_at(published.with_name("200.h5")).rewind(counted(eval=251, train=250))


def test_a_new_agent_has_no_log_to_miss(tmp_path: Path) -> None:
    assert recorder_at(tmp_path / "agent0000.h5").rewind(counted())


def test_a_column_that_claims_more_than_its_file_holds_is_refused(published: Path) -> None:
    with h5py.File(published, "r+") as file:
        del file["eval"]["return"]
        file["eval"].create_dataset("return", shape=(10**15,), dtype="f8")
    with pytest.raises(reader.ReadError, match="eval"):
        reader.open_log(published).table("eval")


def numbers_by_many_names(table: h5py.Group) -> None:
    del table["return"]
    one = table.create_dataset("return", data=np.zeros(10**6, np.uint8))
    for i in range(1500):
        table[f"return{i}"] = one


def texts_by_many_names(table: h5py.Group) -> None:
    one = table.create_dataset("text", data=["x" * 10**6])
    for i in range(1500):
        table[f"text{i}"] = one


def rows_that_share_a_text(table: h5py.Group) -> None:
    table.create_dataset("text", shape=(1500,), dtype=h5py.string_dtype())
    table["text"][0] = "x" * 10**6
    path, references = Path(table.file.filename), table["text"].id.get_offset()
    table.file.close()
    content = bytearray(path.read_bytes())
    first = content[references : references + 16]
    content[references : references + 1500 * 16] = 1500 * first
    path.write_bytes(content)


@pytest.mark.fault("C27", "a hostile log: a megabyte that stands for a gigabyte")
@pytest.mark.parametrize("build", [numbers_by_many_names, texts_by_many_names, rows_that_share_a_text])
def test_a_table_takes_no_more_memory_than_its_file_is_long(
    build: Callable[[h5py.Group], None], published: Path
) -> None:
    with h5py.File(published, "r+") as file:
        build(file["eval"])

    def read() -> None:
        with pytest.raises(reader.ReadError, match="more than the file holds"):
            reader.open_log(published).table("eval")

    assert most_memory_of(read) < 200


def test_every_column_has_a_unit_and_a_meaning_and_the_clocks_come_first() -> None:
    for name in TABLES:
        assert list(columns(name))[: len(CLOCKS)] == list(CLOCKS)
        for column, meta in columns(name).items():
            assert meta.long_name, (name, column)
            assert meta.units or meta.dtype == "text", (name, column)


def test_every_column_of_seconds_is_marked_as_telling_of_the_machine() -> None:
    for name in set(TABLES) - WALL_TABLES:
        seconds = {column for column, meta in columns(name).items() if meta.units.startswith("s")}
        assert seconds <= WALL_COLUMNS, name


def test_a_log_whose_publication_failed_grows_on_and_is_published_later(tmp_path: Path, monkeypatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    recorder = recorder_at(tmp_path / "agent0000.h5")
    with monkeypatch.context() as patch:
        patch.setattr(atomic, "STRIDE", 1024)  # so that the disk is asked in mid-file
        patch.setattr(atomic.os, "fsync", full)
        with pytest.raises(OSError, match="No space left") as refused:
            recorder.publish()
    fill(recorder, 0, 5000)
    recorder.publish()
    assert refused.tb, "somebody may keep the error"
    assert len(reader.open_log(recorder.path).table("eval")["frames"]) == 5000
