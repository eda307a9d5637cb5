"""The machine between the agents. The only part of the program that knows MPI."""

import mpi4py

mpi4py.rc.initialize = False  # `runtime.start` does it, after the command line has been checked
