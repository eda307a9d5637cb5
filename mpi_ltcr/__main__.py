"""``python -m mpi_ltcr`` is the console script ``mpi-ltcr``."""

from mpi_ltcr.cli import main

if __name__ == "__main__":
    main()
