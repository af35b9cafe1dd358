"""
Files with more than 8 bits a channel, or more bands than PIL has modes for -> the values that they hold.

| format    | read by PIL                                         | otherwise                                         |
|-----------|-----------------------------------------------------|---------------------------------------------------|
| PNG       | all but colours of 16 bits with a `pixel_range`     | torchvision                                       |
| TIFF      | one band of any type that it opens; colours of 8    | tifffile, or refused: planes of 16 bits, several  |
|           | bits, of 16 pixel by pixel and without a range      | bands, floats of 16 and 64 bits                   |
| FITS      | never: bytes were swapped, BZERO and BLANK ignored  | astropy, or refused                               |
| JPEG 2000 | 8 bits, 16 of greyscale; others without a range,    | refused                                           |
| PPM, SGI  | since PIL scales their whole range to 8 or 16 bits  |                                                   |
"""

import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from PIL import Image, ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from .pixel_arrays import to_eight_bit_array
from .pixel_ranges import PixelRange, range_of_channels
from .readers.library import library_for

_SUBFILE, _BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES, _PLANAR, _KIND = (
    254,
    258,
    259,
    262,
    277,
    284,
    339,
)  # tags of TIFF
_DESCRIPTION = 270
GDAL_NO_DATA = 42113
BESIDE = 0b101  # smaller copies and masks, by `_SUBFILE`
_TYPES = {1: "u", 2: "i", 3: "f", 4: "u"}  # of `_KIND`; 4 is undefined
_MAGIC = {b"II*\0": "TIFF", b"MM\0*": "TIFF", b"II+\0": "TIFF", b"MM\0+": "TIFF", b"SIMP": "FITS"}
UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: np.rot90(pixels),
}  # by the tag of the orientation


class Told(NamedTuple):
    """What a TIFF says of its values."""

    dtype: np.dtype
    white: float | None = None  # the largest value, if the type has more bits than the file
    no_data: float | None = None
    is_inverted: bool = False

    def to_eight_bit(self, array: np.ndarray, pixel_range: PixelRange | None) -> np.ndarray:
        """Values as PIL or tifffile has them -> uint8."""
        return to_eight_bit_array(array.astype(self.dtype, copy=False), pixel_range, *self[1:])


def told_by_tiff(image: TiffImageFile) -> Told | None:
    """What the page of a TIFF that is not loaded says of its one band; None for 8 bits with nothing to say."""
    tags = image.tag_v2
    bits = tags.get(_BITS, (1,))[0]
    no_data = number_of(tags.get(GDAL_NO_DATA))
    if tags.get(_SAMPLES, 1) > 1 and bits > 8 and tags.get(_PLANAR, 1) == 2:  # opened with PIL by the caller
        raise ValueError("PIL misreads TIFFs with planes of more than 8 bits: give the path or the bytes of the file.")
    if tags.get(_SAMPLES, 1) > 1 or bits < 8 or image.mode == "P":
        return None
    told = told_of(bits, tags.get(_KIND, (1,))[0], tags.get(_PHOTOMETRIC, 1), no_data)
    if bits > 8:
        return told
    # PIL has inverted 8 bits already.
    return told._replace(is_inverted=False) if told.dtype != np.uint8 or no_data is not None else None


def told_of(bits: int, kind: int, photometric: int, no_data: float | None) -> Told:
    """What the tags of a TIFF with the bits, the kind and the meaning of its values say."""
    stored = next((size for size in (8, 16, 32, 64) if size >= bits), 0)
    if not stored or kind not in _TYPES:
        raise ValueError(f"The TIFF has values of {bits} bits and kind {kind}: save it as .npy.")
    white = None if stored == bits else 2.0**bits - 1
    return Told(np.dtype(f"{_TYPES[kind]}{stored // 8}"), white, no_data, photometric == 0)


def number_of(text: str | None) -> float | None:
    """The number in the tag with the no-data value of GDAL."""
    try:
        return float(text.strip("\0 ")) if text else None
    except ValueError:
        return None


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


def deep_colours(image: Image.Image, pixel_range: PixelRange) -> Image.Image | None:
    """
    Bands of 16 bits of a PNG that is not loaded, scaled to 8 by `pixel_range`; transparency keeps its own range. None
    for files of which PIL reads all bits; ValueError for other formats of which it reads fewer, or scales them.
    """
    if image.format == "PNG" and _is_reduced(image):
        from torch import frombuffer, uint8
        from torchvision import io as torchvision_io  # type: ignore[import-untyped]

        file = cast("io.BytesIO", cast("ImageFile.ImageFile", image).fp)
        file.seek(0)
        data = frombuffer(bytearray(file.read()), dtype=uint8)
        bands = torchvision_io.decode_image(data, torchvision_io.ImageReadMode.UNCHANGED).numpy()
        colours, transparency = np.split(bands, [3 if len(bands) > 2 else 1])
        of_colours = range_of_channels(pixel_range, 0, len(colours))
        scaled = to_eight_bit_array(np.moveaxis(colours, 0, -1), of_colours)
        joined = np.concatenate([scaled, np.moveaxis(transparency >> 8, 0, -1).astype(np.uint8)], axis=-1)
        deep = Image.fromarray(joined if joined.shape[-1] > 1 else joined[:, :, 0])
        deep.info = image.info  # with the orientation
        return deep
    if _is_reduced(image):
        raise ValueError(
            f"`pixel_range` needs the numbers that are in the file, but PIL scales those of this {image.format}: save "
            "the image as 16-bit PNG, TIFF or .npy, or leave out `pixel_range`."
        )
    return None


def _is_reduced(image: Image.Image) -> bool:
    """Whether PIL has other numbers than the file, which is not loaded, since it keeps 8 bits or fills up 16."""
    if not isinstance(image, ImageFile.ImageFile) or not image.tile or image.fp is None:
        return False
    arguments = image.tile[0].args
    if image.format in ("JPEG2000", "SGI"):
        place = image.fp.tell()
        image.fp.seek(0)
        bits = _bits_of(image.format, image.fp.read(1 << 20))
        image.fp.seek(place)
        return bits != (16 if image.mode == "I;16" else 8)
    if image.format == "PPM" and isinstance(arguments, tuple) and isinstance(arguments[-1], int) and image.mode != "F":
        return arguments[-1] != (65535 if image.mode == "I" else 255)
    return len(image.getbands()) > 1 and ";16" in str(arguments)


def _bits_of(name: str, head: bytes) -> int:
    """Bits of a channel by the beginning of a file, 0 if it does not say."""
    if name == "SGI":
        return 8 * head[3]
    size = head.find(b"\xff\x4f\xff\x51")  # the size of a JPEG 2000, at the beginning of its code
    return (head[size + 42] & 0x7F) + 1 if size >= 0 else 0


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
    from .readers.tiff import read_tiff

    if isinstance(opened, TiffImageFile):
        return (
            None
            if pil_reads(opened, num_channels, pixel_range)
            else read_tiff(value, num_channels, pixel_range, check)
        )
    if opened is not None and opened.format != "FITS":
        return None
    if isinstance(value, bytes):
        magic = value[:4]
    else:
        with open(value, "rb") as file:
            magic = file.read(4)
    read = {"TIFF": read_tiff, "FITS": _read_fits}.get("FITS" if opened is not None else _MAGIC.get(magic, ""))
    return None if read is None else read(value, num_channels, pixel_range, check)


def pil_reads(image: TiffImageFile, num_channels: int, pixel_range: PixelRange | None) -> bool:
    """Whether PIL reads all channels of a TIFF with all the bits that are needed."""
    tags = image.tag_v2
    bits, bands = tags.get(_BITS, (1,)), tags.get(_SAMPLES, 1)
    if max(bits) > 8 and tags.prefix == b"MM" and tags.get(_COMPRESSION, 1) != 1:
        return False  # PIL swaps their bytes twice
    if bands == 1:
        return True
    if bands != len(image.getbands()) and (num_channels not in (1, 3) or len(image.getbands()) < 3):
        return False
    if GDAL_NO_DATA in tags:
        return False
    return max(bits) <= 8 or (tags.get(_PLANAR, 1) == 1 and pixel_range is None)


def _file_of(value: str | Path | bytes) -> io.BytesIO | str:
    return io.BytesIO(value) if isinstance(value, bytes) else str(value)


@contextmanager
def _fits_image(value: str | Path | bytes) -> Iterator[Any]:
    """The first image of a FITS file."""
    with library_for("FITS", "astropy", misread=True):
        from astropy.io import fits

        with fits.open(_file_of(value), memmap=False) as file:
            image = next((one for one in file if one.is_image and len(one.shape) in (2, 3)), None)
            if image is None:
                raise ValueError("The FITS file has no image of two or three axes.")
            yield image


def fits_size(value: str | Path | bytes) -> tuple[int, int]:
    """Width and height of the first image of a FITS file, from its header."""
    with _fits_image(value) as image:
        return image.shape[-1], image.shape[-2]


def fits_values(value: str | Path | bytes, check: Callable[[int, int], None]) -> np.ndarray:
    """
    The first image of a FITS file, upright (its rows begin at the bottom), `(H, W)` or `(H, W, planes)`. `check` is
    called with width and height before the pixels are read.
    """
    with _fits_image(value) as image:
        check(image.shape[-1], image.shape[-2])
        values = image.data[..., ::-1, :]
        values = values.astype(values.dtype.newbyteorder("="), copy=False)
        return np.moveaxis(values, 0, -1) if values.ndim == 3 else values


def _read_fits(
    value: str | Path | bytes, num_channels: int, pixel_range: PixelRange | None, check: Callable[[int, int], None]
) -> np.ndarray:
    """The first image of a FITS file, whose planes are channels."""
    from .pixel_arrays import eight_bit_channels_last

    return eight_bit_channels_last(fits_values(value, check), num_channels, pixel_range, are_colours=False)
