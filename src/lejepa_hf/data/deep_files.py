"""
Files with more than 8 bits a channel, or more bands than PIL has modes for -> the values that they hold.

| format     | read by PIL                                         | otherwise                                        |
|------------|-----------------------------------------------------|--------------------------------------------------|
| PNG        | all but colours of 16 bits with a `pixel_range`     | torchvision                                      |
| TIFF       | one band of any type that it opens; colours of 8    | tifffile, or refused: planes of 16 bits, several |
|            | bits, of 16 pixel by pixel and without a range      | bands, floats of 16 and 64 bits                  |
| FITS       | never: bytes were swapped, BZERO and BLANK ignored  | astropy, or refused                              |
| JPEG 2000  | up to 8 bits, greyscale up to 16; in others white   | imagecodecs, or refused                          |
|            | turns black                                         |                                                  |
| AVIF, HEIC | up to 8 bits; more without a range                  | imagecodecs, pillow-heif, or refused             |
| PPM, SGI   | all; colours of 16 bits without a range             | refused                                          |
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
from PIL import Image, ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from .pixel_ranges import PixelRange
from .readers.reader import Values
from .stored_numbers import (
    BITS,
    BYTE,
    GDAL_NO_DATA,
    PLANAR,
    SAMPLES,
    bits_of,
    components_of_jpeg2000,
    largest_of_ppm,
    told_by,
)

_SUBFILE, _COMPRESSION = 254, 259  # tags of TIFF
_DESCRIPTION = 270
BESIDE = 0b101  # smaller copies and masks, by `_SUBFILE`
_MAGIC = {b"II*\0": "TIFF", b"MM\0*": "TIFF", b"II+\0": "TIFF", b"MM\0+": "TIFF", b"SIMP": "FITS"}
LIBRARIES = ("TIFF", "FITS", "JPEG2000", "AVIF", "HEIF")  # formats of PIL that a library may have to read
_REDUCED = ("PNG", "PPM", "SGI", "JPEG2000", "AVIF", "HEIF")  # formats of PIL that may have more than it keeps


def refuse_hidden_pages(description: object, pages: int) -> None:
    """Refuse a stack that ImageJ (above 4 GB) or tifffile wrote with a single page in place of all, by its tag."""
    text = str(description or "")
    told = re.search(r"^images=(\d+)", text, re.MULTILINE) if text.startswith("ImageJ=") else None
    if pages == 1 and ((told is not None and int(told[1]) > 1) or '"truncated": true' in text):
        raise ValueError(
            "The TIFF is a stack of which only the first image has a page: write its `tifffile.imread` array with "
            "`np.save` or as a TIFF with a page for each image."
        )


def full_pages(image: Image.Image, have_one_size: bool = True) -> list[int]:
    """
    Numbers of the pages of a TIFF without the previews and masks of the first one; [0] for other files. ValueError if
    they differ in size, unless that is allowed.
    """
    if not isinstance(image, TiffImageFile):
        return [0]
    if image.n_frames == 1:
        refuse_hidden_pages(image.tag_v2.get(_DESCRIPTION), 1)
        return [0]
    numbers = [0]
    size = image.size
    for number in range(1, image.n_frames):
        image.seek(number)
        if image.tag_v2.get(_SUBFILE, 0) & BESIDE:
            continue
        if image.size != size and have_one_size:
            raise ValueError(f"The pages of the TIFF have different sizes: {size} and {image.size} pixels.")
        numbers.append(number)
    image.seek(0)
    return numbers


def deep_colours(image: Image.Image, pixel_range: PixelRange | None) -> Image.Image | None:
    """
    Bands of 16 bits of a PNG that is not loaded, scaled to 8 by `pixel_range`; transparency keeps its own range. None
    for files of which PIL reads all that is needed; ValueError for others.
    """
    if image.format not in _REDUCED or (pixel_range is None and image.format != "JPEG2000"):
        return None
    if not isinstance(image, ImageFile.ImageFile) or not is_reduced(image):
        return None
    if image.format == "JPEG2000":  # opened with PIL by the caller
        raise ValueError("PIL misreads the bits of this JPEG 2000: give the path or the bytes of the file.")
    if image.format == "PNG":
        from .readers.deep_colours import png_values

        deep = Image.fromarray(png_values(image).to_eight_bit(3, pixel_range))
        deep.info = image.info  # with the orientation
        return deep
    raise ValueError(
        f"`pixel_range` needs the numbers that are in the file, but PIL scales those of this {image.format}: save the "
        "image as 16-bit PNG, TIFF or .npy, or leave out `pixel_range`."
    )


def is_reduced(image: ImageFile.ImageFile) -> bool:
    """Whether PIL keeps 8 bits of a file that is not loaded and has more, or misreads them."""
    if image.fp is None or (not image.tile and image.format != "HEIF"):
        return False
    if image.format in ("AVIF", "HEIF", "SGI"):
        return bits_of(image) > BYTE
    if image.format == "JPEG2000":
        plain, colours = (BYTE, False), components_of_jpeg2000(image)
        if "A" in image.mode and len(colours) > 1:
            colours = colours[:-1]
        is_plain = image.mode == "I;16" or set(colours) <= {plain}
        return not is_plain and told_by(image) is None
    if image.format == "PPM":
        return image.mode == "RGB" and (largest_of_ppm(image) or 0) > 2**BYTE - 1
    return len(image.getbands()) > 1 and ";16" in str(image.tile[0].args)


def opened_otherwise(
    value: str | Path | bytes,
    opened: Image.Image | None,
    num_channels: int,
    pixel_range: PixelRange | None,
    check: Callable[[int, int], None],
) -> np.ndarray | None:
    """
    Read a file that PIL cannot open (`opened` is None) or would misread, by the library for its format. `check` is
    called with width and height before the pixels are read.

    Returns uint8 `(H, W)` or `(H, W, bands)`, upright; None if PIL reads the file, or no library does. ValueError if
    the library is not installed.
    """
    name = _read_by_library(value, opened, num_channels, pixel_range is not None)
    if name == "TIFF":
        from .readers.tiff import read_tiff

        return read_tiff(value, num_channels, pixel_range, check)
    values = _values_by_library(name, value, opened, num_channels, check)
    return None if values is None else values.to_eight_bit(num_channels, pixel_range)


def values_otherwise(
    value: str | Path | bytes, opened: Image.Image | None, num_channels: int, check: Callable[[int, int], None]
) -> Values | None:
    """As [`opened_otherwise`], but the values that are in the file, with all their bits."""
    name = _read_by_library(value, opened, num_channels, True)
    return _values_by_library(name, value, opened, num_channels, check)


def _read_by_library(
    value: str | Path | bytes, opened: Image.Image | None, num_channels: int, with_range: bool
) -> str | None:
    """The format of a file of which a library has to read what is needed, with a `pixel_range` or without."""
    if opened is None:
        return _MAGIC.get(_beginning(value))
    if isinstance(opened, TiffImageFile):
        return None if pil_reads(opened, num_channels, with_range) else "TIFF"
    if opened.format == "FITS":
        return "FITS"
    is_needed = opened.format in LIBRARIES and (with_range or opened.format == "JPEG2000")
    return opened.format if is_needed and is_reduced(cast("ImageFile.ImageFile", opened)) else None


def _beginning(value: str | Path | bytes) -> bytes:
    if isinstance(value, bytes):
        return value[:4]
    with open(value, "rb") as file:
        return file.read(4)


def _values_by_library(
    name: str | None,
    value: str | Path | bytes,
    opened: Image.Image | None,
    num_channels: int,
    check: Callable[[int, int], None],
) -> Values | None:
    if name is None:
        return None
    if name == "TIFF":
        from .readers.tiff import tiff_values

        return tiff_values(value, num_channels, check)
    if name == "FITS":
        from .readers.fits import fits_values

        return fits_values(value, check)
    from .readers.deep_colours import colour_values

    assert opened is not None, "others are opened by PIL"
    check(*opened.size)
    return colour_values(value, opened)


def pil_reads(image: TiffImageFile, num_channels: int, with_range: bool) -> bool:
    """Whether PIL reads all channels of a TIFF with all the bits that are needed, with a `pixel_range` or without."""
    tags = image.tag_v2
    bits, bands = tags.get(BITS, (1,)), tags.get(SAMPLES, 1)
    if max(bits) > BYTE and tags.prefix == b"MM" and tags.get(_COMPRESSION, 1) != 1:
        return False  # PIL swaps their bytes twice
    if bands == 1:
        return True
    if bands != len(image.getbands()) and (num_channels not in (1, 3) or len(image.getbands()) < 3):
        return False
    if GDAL_NO_DATA in tags:
        return False
    return max(bits) <= BYTE or (tags.get(PLANAR, 1) == 1 and not with_range)
