"""Whatever a dataset row holds -> an image with 8 bits a channel."""

import io
import os
import stat
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.EpsImagePlugin import EpsImageFile
from PIL.IptcImagePlugin import IptcImageFile
from PIL.TiffImagePlugin import TiffImageFile

from .deep_files import LIBRARIES, deep_colours, full_pages, opened_otherwise
from .network import read_through
from .orientations import ORIENTATION
from .pixel_arrays import (
    array_of,
    eight_bit_channels_last,
    is_npy,
    is_tensor,
    mapped_npy,
    read_npy,
    to_eight_bit_array,
    wrong_channels,
)
from .pixel_ranges import PixelRange, check_ranges, is_range_of_bytes, range_of_channels
from .readers.addresses import Part, split_address
from .readers.heif import is_heif, register_heif
from .readers.known_readers import dicom_reader, find_reader, is_dicom
from .stored_numbers import Told, told_by

if TYPE_CHECKING:
    from torch import Tensor

_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N", "I")
# What is raised for an image that cannot be read: by PIL's decoders for damaged bytes (AVIF's a RuntimeError), for a
# missing image (None), a decompression bomb, or one that does not fit into memory.
_BUILT_IN_ERRORS = (OSError, SyntaxError, ValueError, TypeError, EOFError, RuntimeError, MemoryError)
DECODING_ERRORS = (*_BUILT_IN_ERRORS, struct.error, zlib.error, Image.DecompressionBombError)
_IMAGES = (dict, bytes, Path, Image.Image)  # in a list they are images of one object, not numbers
_WITH_ORIENTATION = {"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"}  # in PIL's `info`
_HEAD = 132  # bytes
_MOST_BANDS = 4  # of images that are not arrays
_TURNED = (5, 6, 7, 8)  # width and height are exchanged


# What a row may hold as its image; `open_image` says what is in a dict.
Encoded: TypeAlias = "Image.Image | bytes | str | Path | np.ndarray | Tensor | list | dict[str, Any]"
Pixels: TypeAlias = Image.Image | np.ndarray


def open_image(
    value: Encoded, num_channels: int = 3, pixel_range: PixelRange | None = None, max_image_pixels: int | None = None
) -> Pixels:
    """
    Open an image as `datasets` stores it, without decoding its pixels: a `PIL.Image.Image`, encoded `bytes`, a path or
    url, an array, tensor or nested list of numbers, or `{"bytes": ..., "path": ...}`. Files are those PIL reads, and
    `.npy`; pipes and devices, which may never end, are refused. Of a list of several images it is the first one.

    Returns the image as it is in the file, not loaded; or, for an array and for files that [`~data.deep_files`] reads,
    uint8 `(H, W)` or `(H, W, channels)`, scaled by `pixel_range` already. What is not an image, has more pixels than
    `max_image_pixels` (if missing, than PIL's `MAX_IMAGE_PIXELS`) or another number of channels raises one of
    [`DECODING_ERRORS`].
    """
    value, part = locate(value)
    if isinstance(value, str | bytes) and (reader := find_reader(value, part)) is not None:
        return reader.read(value, part, num_channels, pixel_range, max_image_pixels)
    value = with_array(value, num_channels, max_image_pixels)
    if isinstance(value, str | Path | bytes):
        value = _open_file(value, num_channels, pixel_range, max_image_pixels)
    elif isinstance(value, np.ndarray | list):
        value = eight_bit_channels_last(value, num_channels, pixel_range)
    if isinstance(value, EpsImageFile):
        raise ValueError("EPS files are programs, which PIL would run with Ghostscript: convert the image to PNG.")
    if isinstance(value, IptcImageFile):
        raise ValueError("IPTC files may contain any other file, of any size and even EPS: convert the image to PNG.")
    if not isinstance(value, Image.Image | np.ndarray):
        kinds = "a PIL image, bytes, a path, an array or a tensor"
        raise TypeError(f"An image must be {kinds}, got {type(value).__name__}.")
    check_size(*stored_size(value), max_image_pixels)
    return value


def locate(value: Encoded) -> tuple[Encoded, Part | None]:
    """
    The value of a row without the dict, the list of several images and the url around it; a path is that of a regular
    file, and comes with the part of the file that it names.
    """
    if isinstance(value, list) and value and isinstance(value[0], _IMAGES):
        value = value[0]
    if isinstance(value, dict):
        value = value["bytes"] if value.get("bytes") is not None else value["path"]
    if isinstance(value, str) and "://" in value:
        value = value.partition("://")[2] if value.startswith("file://") else _fetch(value)
    if not isinstance(value, str | Path):
        return value, None
    value, part = split_address(str(value))
    mode = os.stat(value).st_mode
    if not stat.S_ISREG(mode) and not (part is not None and stat.S_ISDIR(mode)):  # an array of zarr is a folder
        raise ValueError(f"{value!r} is not a regular file.")
    return value, part


def with_array(value: Encoded, num_channels: int, max_image_pixels: int | None) -> Encoded:
    """What [`locate`] gives; a tensor or a `.npy` file as an array."""
    if is_tensor(value):
        return array_of(value)
    if not is_npy(value):
        return value
    if not isinstance(value, bytes):  # else it is in memory already
        check_size(mapped_npy(value).size // max(num_channels, _MOST_BANDS), 1, max_image_pixels)
    return read_npy(value)


def _open_file(
    file: str | Path | bytes, num_channels: int, pixel_range: PixelRange | None, max_image_pixels: int | None
) -> Pixels:
    """Open an image file with PIL, or read it with the library for its format."""
    opened = open_or_none(file, max_image_pixels)
    if opened is None and is_dicom(head_of(file)):  # without the ending
        content = file if isinstance(file, bytes) else str(file)
        return dicom_reader().read(content, None, num_channels, pixel_range, max_image_pixels)
    if opened is None or opened.format in LIBRARIES:
        check = partial(check_size, max_image_pixels=max_image_pixels)
        array = opened_otherwise(file, opened, num_channels, pixel_range, check)
        if array is not None:
            return array
    return identified(opened, file)


def open_or_none(file: str | Path | bytes, max_image_pixels: int | None) -> Image.Image | None:
    """As [`open_by_pil`], also HEIC, and TIFFs that are turned."""
    opened = open_by_pil(file, max_image_pixels)
    if opened is None and is_heif(head_of(file)):
        register_heif()
        opened = open_by_pil(file, max_image_pixels)
    if (
        isinstance(opened, TiffImageFile)
        and not isinstance(file, bytes)
        and opened.tag_v2.get(ORIENTATION, 1) in _TURNED
    ):
        opened = open_by_pil(Path(file).read_bytes(), max_image_pixels)  # from a path PIL maps the sides exchanged
    return opened


def identified(opened: Image.Image | None, file: str | Path | bytes) -> Image.Image:
    """What PIL opened; the error of PIL if it does not know the format."""
    if opened is None:
        name = "" if isinstance(file, bytes) else f" {str(file)!r}"
        raise UnidentifiedImageError(f"cannot identify image file{name}")
    return opened


def open_by_pil(file: str | Path | bytes, max_image_pixels: int | None) -> Image.Image | None:
    """What PIL opens, None if it does not know the format."""
    try:
        with _pil_limit(max_image_pixels):
            return Image.open(io.BytesIO(file) if isinstance(file, bytes) else file)
    except UnidentifiedImageError:
        return None


def head_of(file: str | Path | bytes) -> bytes:
    """The bytes of a file by which formats are known."""
    if isinstance(file, bytes):
        return file[:_HEAD]
    with open(file, "rb") as opened:
        return opened.read(_HEAD)


def check_size(width: int, height: int, max_image_pixels: int | None = None, where: str = "") -> None:
    """
    Refuse an image of more pixels than `max_image_pixels`, or than PIL's `MAX_IMAGE_PIXELS`, by a
    `PIL.Image.DecompressionBombError`. The message continues with `where` if it is not the stored image that has this
    size.
    """
    limit = max_image_pixels or Image.MAX_IMAGE_PIXELS
    if limit and width * height > limit:
        raise Image.DecompressionBombError(
            f"{width} x {height} pixels{where} are more than `max_image_pixels`, {limit}; raise it for larger images "
            "that you trust."
        )


_changing_limit = threading.Lock()


@contextmanager
def _pil_limit(max_image_pixels: int | None) -> Iterator[None]:
    """
    Let PIL open what `max_image_pixels` allows, and leave the rest to [`check_size`]. PIL's own limit holds for the
    whole process, so it is raised for as long as a header is read, by one thread at a time.
    """
    with warnings.catch_warnings(), _changing_limit if max_image_pixels else nullcontext():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # refused later, not warned about
        before = Image.MAX_IMAGE_PIXELS
        if before and max_image_pixels:
            Image.MAX_IMAGE_PIXELS = max(before, max_image_pixels)
        try:
            yield
        except Image.DecompressionBombError as error:
            raise Image.DecompressionBombError(f"{error} Or raise `max_image_pixels`, if you trust it.") from error
        finally:
            if max_image_pixels:
                Image.MAX_IMAGE_PIXELS = before


def _fetch(url: str) -> bytes:
    """The bytes of a url: rows of a streamed folder on the Hub name their files instead of holding them."""
    import fsspec

    def read() -> Iterator[bytes]:
        with fsspec.open(url, "rb") as file:
            yield file.read()

    return next(read_through(read, url))


def stored_size(image: Pixels) -> tuple[int, int]:
    """Width and height before the image is turned upright."""
    return (image.shape[1], image.shape[0]) if isinstance(image, np.ndarray) else image.size


def resized(image: Pixels, size: tuple[int, int], box: tuple[float, float, float, float] | None = None) -> Pixels:
    """A decoded image, or the part of it in `box` (left, upper, right, lower, in pixels), at this width and height."""
    if isinstance(image, Image.Image):
        return image.resize(size, Image.Resampling.BICUBIC, box)
    return np.dstack([np.asarray(resized(Image.fromarray(band), size, box)) for band in np.moveaxis(image, -1, 0)])


def upright_size(image: Pixels) -> tuple[int, int]:
    """Width and height that the image has after [`load_upright`], from the header alone."""
    width, height = stored_size(image)
    # PIL turns TIFFs itself, and has their size upright from the beginning.
    if isinstance(image, np.ndarray) or image.format == "TIFF":
        return width, height
    return (height, width) if orientation_of(image) in _TURNED else (width, height)


def orientation_of(image: Image.Image) -> int:
    """How an image is turned, 1 for upright; from its header."""
    # PIL's own search takes as long as reading the header of a small JPEG. In other formats it may come later.
    if image.format == "JPEG" and _WITH_ORIENTATION.isdisjoint(image.info):
        return 1
    return image.getexif().get(ORIENTATION, 1)


def load_upright(
    image: Pixels,
    reduction: int = 1,
    num_channels: int = 3,
    pixel_range: PixelRange | None = None,
    page: int | None = None,
) -> Pixels:
    """
    Decode what [`open_image`] opened for the same `num_channels` and `pixel_range`: 8 bits a channel, upright.

    Width and height may become up to `reduction` times smaller: JPEGs are decoded at the next power of two below it,
    up to 8, which saves work; other formats and images that are loaded already ignore it. For 1 channel the mode is
    `"L"`, the luminance of colours; for 3 `"L"` or `"RGB"`; otherwise the bands of the image, or the pages of a TIFF
    without a `page`, become an array `(H, W, num_channels)`. Nothing else is converted.
    """
    mode = "L" if num_channels == 1 else None  # JPEGs then leave their colours undecoded
    if isinstance(image, np.ndarray):
        if num_channels not in (1, 3):
            return image
        image, pixel_range = Image.fromarray(image), None
    if mode or reduction > 1:
        reduction = max(1, reduction)
        image.draft(mode, (image.width // reduction, image.height // reduction))
    if page is not None:
        image.seek(page)
    pages = full_pages(image) if image.format == "TIFF" and page is None else [0]
    if num_channels not in (1, 3) or len(pages) > 1:
        channels = _channels(image, pages, num_channels, pixel_range)
        return Image.fromarray(channels) if num_channels == 3 else channels
    image, told = loaded_upright(image, pixel_range)
    image = to_eight_bit(image, pixel_range, told)
    return image.convert(mode) if mode else image


def loaded_upright(image: Image.Image, pixel_range: PixelRange | None) -> tuple[Image.Image, Told | None]:
    """An image, or the page of a TIFF, with its pixels, and what its file says of their values."""
    told = told_by(image)
    if told is None:
        image = deep_colours(image, pixel_range) or image
    try:
        image.load()
    except MemoryError as error:
        way_out = "Lower `max_image_pixels` to leave such images out before they are decoded."
        raise MemoryError(f"{image.width} x {image.height} pixels do not fit into memory. {way_out}") from error
    if orientation_of(image) != 1:  # transposing would copy every image
        image = ImageOps.exif_transpose(image)
    return image, told


def _channels(image: Image.Image, pages: list[int], num_channels: int, pixel_range: PixelRange | None) -> np.ndarray:
    """The bands of these pages, one after the other, as channels."""
    number = len(pages) * _num_bands(image)
    if number != num_channels:
        raise wrong_channels(number, num_channels, len(pages))
    channels = []
    for place, page in enumerate(pages):
        if len(pages) > 1:
            image.seek(page)
        of_page = range_of_channels(pixel_range, place * _num_bands(image), _num_bands(image))
        loaded, told = loaded_upright(image, of_page)
        channels.append(np.asarray(_all_bands(without_palette(loaded), of_page, told)))
    return np.dstack(channels)


def _all_bands(image: Image.Image, pixel_range: PixelRange | None, told: Told | None) -> Image.Image:
    """As [`to_eight_bit`], but with all bands."""
    if len(image.getbands()) == 1:
        return to_eight_bit(image, pixel_range, told)
    return _scaled(image, pixel_range, told) if told is not None or is_range_of_bytes(pixel_range) else image


def _scaled(image: Image.Image, pixel_range: PixelRange | None, told: Told | None) -> Image.Image:
    """Scale the 256 values of an image of 8 bits, in one band after the other; transparency keeps its own range."""
    bands, values = image.getbands(), np.arange(256, dtype=np.uint8)
    scale = to_eight_bit_array if told is None else told.to_eight_bit
    ranges = [None if band == "A" else range_of_channels(pixel_range, place, 1) for place, band in enumerate(bands)]
    return image.point([level for of_band in ranges for level in scale(values, of_band).tolist()])


def without_palette(image: Image.Image) -> Image.Image:
    """An image with the colours of its palette, if it has one."""
    return image.convert("RGBA" if "transparency" in image.info else "RGB") if image.mode == "P" else image


def _num_bands(image: Image.Image) -> int:
    """Bands of an image, those of its colours if it has a palette."""
    return len(image.getbands()) if image.mode != "P" else 4 if "transparency" in image.info else 3


def decode_image(
    value: Encoded, num_channels: int = 3, pixel_range: PixelRange | None = None, max_image_pixels: int | None = None
) -> Pixels:
    """[`open_image`] and [`load_upright`] in one: whatever a row holds -> an upright image, 8 bits a channel."""
    return load_upright(open_image(value, num_channels, pixel_range, max_image_pixels), 1, num_channels, pixel_range)


def to_eight_bit(image: Image.Image, pixel_range: PixelRange | None = None, told: Told | None = None) -> Image.Image:
    """
    Convert an image of any mode to 8 bits a channel: greyscale stays one channel, every other mode becomes RGB.

    More bits are scaled as in [`~data.pixel_arrays.to_eight_bit_array`], with what the file has `told` of them, else
    as 16 bits or floats: PIL's own conversion saturates them to white. Transparency is dropped, as in transformers'
    image processors.
    """
    if image.mode in (*_SIXTEEN_BIT, "F"):
        values = np.asarray(image)
        if told is not None:
            return Image.fromarray(told.to_eight_bit(values, pixel_range))
        if image.mode == "I" and pixel_range is None:
            values = values.clip(0, 65535).astype(np.uint16)
        return Image.fromarray(to_eight_bit_array(values, pixel_range))
    if image.mode == "1":
        return image.convert("L")  # black and white, of which no range is one
    if image.mode == "LA":
        image = image.convert("L")
    elif image.mode not in ("L", "RGB"):
        image = without_palette(image).convert("RGB")
    if has_range := is_range_of_bytes(pixel_range):
        check_ranges(pixel_range, len(image.getbands()))
    return _scaled(image, pixel_range, told) if has_range or told is not None else image
