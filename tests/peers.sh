#!/usr/bin/env bash
# Usage: bash tests/peers.sh [ARGUMENT OF analysis/peers.py ...]
# Sets this program beside Tianshou, Stable-Baselines3, sb3-contrib and PFRL on the same work, in an environment of its
# own, .venv-peers. Takes half an hour; no part of tests/run.sh.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=.venv-peers/bin/python
if [ ! -x "$python" ]; then
    "${PYTHON:-python3}" -m venv .venv-peers \
        || { "${PYTHON:-python3}" -m venv --clear --without-pip .venv-peers && "${PYTHON:-python3}" -m pip --python "$python" install -q pip; }
fi
"$python" -m pip install -q --disable-pip-version-check -c constraints.txt \
    tianshou stable-baselines3 sb3-contrib pfrl ".[mpich,compiled]"
exec env PYTHONPATH="$PWD" "$python" analysis/peers.py "$@"
