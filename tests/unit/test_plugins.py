"""HDF5 loads filters from a folder when a file names one that it does not know: never when a log is read."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import h5py
import pytest
from conftest import ROOT, preloadable

from mpi_ltcr.archive.recorder import Recorder

UNKNOWN_FILTER = 30_000
PLUGIN = """
#include <stdio.h>
#include <stdlib.h>
__attribute__((constructor)) static void loaded(void) { fclose(fopen(getenv("MARK"), "w")); }
"""

BARE = "import sys, h5py; h5py.File(sys.argv[1])['eval/return'][:]"
OPENS = {
    "the archive": "import sys; from pathlib import Path; from mpi_ltcr.archive.reader import open_log\n"
    "open_log(Path(sys.argv[1])).table('eval')",
    "analysis": "import sys; sys.path.insert(0, 'analysis'); from pathlib import Path; import load\n"
    "load.open_logs([Path(sys.argv[1]).parents[1]], mixed=True)[0].table('eval')",
}


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """One whose returns are packed by a filter that nobody knows."""
    (tmp_path / "run" / "logs").mkdir(parents=True)
    recorder = Recorder(
        path=tmp_path / "run" / "logs" / "agent0000.h5", attributes={"agent": 0, "config_json": '{"program": "ltcr"}'}
    )
    recorder.publish()
    with h5py.File(recorder.path, "r+") as file:
        del file["eval/return"]
        creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        creation.set_chunk((4,))
        creation.set_filter(UNKNOWN_FILTER, h5py.h5z.FLAG_OPTIONAL)
        space = h5py.h5s.create_simple((4,))
        packed = h5py.h5d.create(file["eval"].id, b"return", h5py.h5t.NATIVE_DOUBLE, space, creation)
        packed.write_direct_chunk((0,), bytes(32), 0)
    return recorder.path


@pytest.mark.fault("C27", "a log that names a filter of a plugin: the plugin is not loaded")
@pytest.mark.parametrize("program", OPENS)
def test_no_plugin_of_hdf5_is_loaded_by_whatever_reads_a_log(program: str, log: Path, tmp_path: Path) -> None:
    (tmp_path / "plugins").mkdir()
    (source := tmp_path / "libplugin.c").write_text(PLUGIN)
    preloadable(source, tmp_path / "plugins")
    clean = {name: value for name, value in os.environ.items() if name != "HDF5_PLUGIN_PRELOAD"}
    mark = tmp_path / "loaded"
    env = {**clean, "PYTHONPATH": str(ROOT), "HDF5_PLUGIN_PATH": str(tmp_path / "plugins"), "MARK": str(mark)}

    def run(words: str) -> str:
        argv = [sys.executable, "-c", words, str(log)]
        return subprocess.run(argv, env=env, cwd=ROOT, capture_output=True, text=True, check=False).stderr

    err = run(OPENS[program])
    assert "ReadError" in err
    assert "table eval cannot be read" in err
    assert not mark.exists(), "a plugin was loaded"
    run(BARE)
    assert mark.exists(), "without this loading the rest would prove nothing"
