"""Frames of an evaluation into a file: .gif by pillow, .mp4 by imageio's ffmpeg. Extra `video`."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np

from mpi_ltcr.config import ConfigError, require

NEEDS = {".gif": ("PIL",), ".mp4": ("imageio", "imageio_ffmpeg")}
"""What writes each format; neither is installed with the package."""
COLOURS = 64
"""Of one frame of a GIF; Space Battle has a dozen, and their blends along edges."""


def check_film(path: Path) -> None:
    """Raise ConfigError, in one line, unless such a film can be written here."""
    kinds = " or ".join(NEEDS)
    require(path.suffix in NEEDS, f"--video: {path} is neither {kinds}; end its name in one of them")
    require(path.absolute().parent.is_dir(), f"--video: {path.parent} is no directory; make it first")
    require(not path.is_dir(), f"--video: {path} is a directory; name a file")
    for package in NEEDS[path.suffix]:
        try:
            importlib.import_module(package)
        except ImportError:
            raise ConfigError(
                f"--video: {path.suffix} needs {package}, which is not installed; pip install mpi-ltcr[video]"
            ) from None


class Film:
    """A file that grows by a frame at a time; whole once it is closed.

    Args:
        path: ends in .gif or .mp4; what is there already is replaced.
        fps: frames shown in a second.
    """

    def __init__(self, path: Path, fps: float) -> None:
        check_film(path)
        self.path, self.fps, self.frames = path, float(fps), 0
        self._images: list[Any] = []
        self._writer: Any = None
        if path.suffix == ".mp4":
            import imageio

            # Any size is taken; yuv420p, which every player knows, needs even ones.
            self._writer = imageio.get_writer(path, fps=fps, macro_block_size=2, codec="libx264", quality=7)

    def add(self, frame: np.ndarray) -> None:
        """One more frame, (height, width, 3) uint8."""
        self.frames += 1
        if self._writer is not None:
            self._writer.append_data(frame)
            return
        from PIL import Image

        self._images.append(Image.fromarray(frame).quantize(COLOURS, dither=Image.Dither.NONE))

    def close(self) -> None:
        """Write what there is. Raises OSError if the disk does not take it."""
        if self._writer is not None:
            self._writer.close()
        elif self._images:
            first, *others = self._images
            first.save(self.path, save_all=True, append_images=others, duration=1000 / self.fps, loop=0)
