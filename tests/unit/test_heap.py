"""What a rank has asked the system for, it keeps."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
import numpy as np
from mpi_ltcr.comm import runtime

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def used():
    "New pages for a hundred pairs of buffers, as HDF5 has them when it writes texts."
    before = faults()
    for _ in range(100):
        pair = [np.ones(1 << 20, np.uint8) for _ in range(2)]
        del pair
    return faults() - before

without = used()
runtime.keep_heap()
print(without, used())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another libc has another heap")
def test_buffers_that_come_and_go_take_new_pages_once() -> None:
    told = subprocess.run([sys.executable, "-c", FAULTS], check=True, capture_output=True, text=True).stdout
    without, kept = map(int, told.split())
    assert kept < 1000
    assert without > 2 * kept
