#!/usr/bin/env bash
# Usage: bash jobs/install.sh EXTRA[,EXTRA ...]
# Makes .venv in the repository and installs the package into it, with these extras, in the versions of
# constraints.txt. Does nothing if that has been done before. Needs Python 3.10 or newer; PYTHON=... chooses one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
extras=$1
stamp=.venv/installed-$extras
state=$(cat setup.py constraints.txt pyproject.toml | cksum)
if [ -x .venv/bin/python ] && [ "$(cat "$stamp" 2>/dev/null)" = "$state" ]; then
    exit 0
fi

python=${PYTHON:-python3}
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
    echo "install: needs Python 3.10 or newer, found: $("$python" --version 2>&1 || true); choose one: PYTHON=python3.12 bash $0" >&2
    exit 77
fi
if [ ! -x .venv/bin/python ]; then
    # Debian's python3 may come without ensurepip; then the system's pip fills the environment.
    "$python" -m venv .venv 2>/dev/null \
        || { "$python" -m venv --clear --without-pip .venv && "$python" -m pip --python .venv/bin/python install -q pip; } \
        || { echo "install: cannot make a virtual environment; install python3-venv (or pip) and try again" >&2; exit 77; }
fi
echo "install: mpi-ltcr[$extras] into .venv (the first time this takes a few minutes)" >&2
PYTHONWARNINGS=ignore .venv/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[$extras]"
echo "$state" > "$stamp"
