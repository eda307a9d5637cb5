"""A line of standard error leaves in one write, so that a launcher, who mixes what ranks write, keeps lines whole."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TINY, faulty


def writes_of(argv: list[str], environment: dict[str, str]) -> list[str]:
    """What each write of ``python -m mpi_ltcr argv`` to its standard error brought."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)  # which keeps writes apart
    command = [sys.executable, "-m", "mpi_ltcr", *argv]
    with (
        ours,
        subprocess.Popen(command, env=os.environ | environment, stderr=theirs, stdout=subprocess.DEVNULL) as process,
    ):
        theirs.close()
        ours.settimeout(60)
        texts = [packet.decode() for packet in iter(lambda: ours.recv(1 << 20), b"")]
        process.wait(60)
    return texts


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    ("call", "lr", "said"),
    [(9999, "-1", "mpi-ltcr: error: "), (60, "1e-3", "the job ends here"), (9999, "1e-3", "completed: 400 frames")],
    ids=["refused", "crashed", "completed"],
)
def test_each_write_to_stderr_ends_its_line(call: int, lr: str, said: str, unbuffered: str, tmp_path: Path) -> None:
    variables = faulty(f"raise:explore:0:{call}", tmp_path) | {"PYTHONUNBUFFERED": unbuffered}
    run = ["--out", str(tmp_path / "run"), "--env.id", "faulty:Faulty-v0", "--agent.lr", lr]
    texts = writes_of(["train", "ltcr-cartpole-alone", *TINY, *run], variables)
    assert said in "".join(texts)
    assert [text for text in texts if not text.endswith("\n")] == []
