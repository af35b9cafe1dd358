"""FITS files of images, by astropy."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from .library import library_for
from .reader import Check, Values


def fits_size(file: str) -> tuple[int, int]:
    """Width and height of the first image of a FITS file, from its header."""
    with _first_image(file) as image:
        return image.shape[-1], image.shape[-2]


def fits_values(value: str | Path | bytes, check: Check) -> Values:
    """
    The first image of a FITS file, whose rows begin at the bottom; its planes are channels. BSCALE, BZERO and BLANK
    are applied. `check` is called with width and height before the pixels are read.
    """
    with _first_image(value) as image:
        check(image.shape[-1], image.shape[-2])
        values = image.data[..., ::-1, :]
        values = values.astype(values.dtype.newbyteorder("="), copy=False)
    return Values(np.moveaxis(values, 0, -1) if values.ndim == 3 else values, are_colours=False)


@contextmanager
def _first_image(value: str | Path | bytes) -> Iterator[Any]:
    with library_for("FITS", "astropy", misread=True):
        from astropy.io import fits

        with fits.open(io.BytesIO(value) if isinstance(value, bytes) else str(value), memmap=False) as file:
            image = next((one for one in file if one.is_image and len(one.shape) in (2, 3)), None)
            if image is None:
                raise ValueError("The FITS file has no image of two or three axes.")
            yield image
