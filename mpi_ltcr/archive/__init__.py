"""HDF5 logs and checkpoints, and the run directory that holds them. Every file is written beside and renamed."""
