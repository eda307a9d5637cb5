"""HDF5 logs and checkpoints, and the run directory that holds them. Every file is written beside and renamed."""

import os

os.environ.setdefault("HDF5_PLUGIN_PRELOAD", "::")  # no dynamic HDF5 filters: a hostile file could name one. HDF5 reads
# it once, so it must stand before anything of this package imports h5py.
