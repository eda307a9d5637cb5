#!/usr/bin/env bash
# Usage: bash tests/gpu.sh [PYTEST ARGUMENT ...]
# The tests that need a GPU. Says so, and tests nothing, on a machine without one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash jobs/install.sh mpich,analysis,test
bin=$PWD/.venv/bin

if ! "$bin/python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "gpu.sh: torch sees no CUDA device here: NOTHING WAS TESTED" >&2
    exit 0
fi
"$bin/python" -c 'import torch; print("gpu.sh: testing on", torch.cuda.get_device_name())'
exec "$bin/python" -m pytest tests/gpu "$@"
