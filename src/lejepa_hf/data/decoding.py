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
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
from PIL import Image, ImageFile, ImageOps, ImageSequence
from PIL.EpsImagePlugin import EpsImageFile
from PIL.IptcImagePlugin import IptcImageFile
from PIL.TiffImagePlugin import TiffImageFile

from .network import read_through
from .pixel_arrays import count_values, eight_bit_channels_last, is_npy, read_npy, to_eight_bit_array, wrong_channels

_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N", "I")
# What is raised for an image that cannot be read: by PIL's decoders for damaged bytes (AVIF's a RuntimeError), for a
# missing image (None), a decompression bomb, or one that does not fit into memory.
_BUILT_IN_ERRORS = (OSError, SyntaxError, ValueError, TypeError, EOFError, RuntimeError, MemoryError)
DECODING_ERRORS = (*_BUILT_IN_ERRORS, struct.error, zlib.error, Image.DecompressionBombError)
_ORIENTATION = 0x0112  # EXIF
_MOST_BANDS = 4  # of images that are not arrays
_TURNED = (5, 6, 7, 8)  # width and height are exchanged


# What a row may hold as its image; `open_image` says what is in a dict.
Encoded: TypeAlias = Image.Image | bytes | str | Path | np.ndarray | list | dict[str, Any]
Pixels: TypeAlias = Image.Image | np.ndarray


def open_image(
    value: Encoded, num_channels: int = 3, pixel_range: list[float] | None = None, max_image_pixels: int | None = None
) -> Pixels:
    """
    Open an image as `datasets` stores it, without decoding its pixels: a `PIL.Image.Image`, encoded `bytes`, a path or
    url, an array or nested list of numbers, or `{"bytes": ..., "path": ...}`. Files are those PIL reads, and `.npy`;
    pipes and devices, which may never end, are refused.

    Returns the image as it is in the file, not loaded; or, for an array if neither 1 nor 3 channels are wanted, uint8
    `(H, W, num_channels)`. `pixel_range` has the values of arrays that become black and white. What is not an image,
    has more pixels than `max_image_pixels` (if missing, than PIL's `MAX_IMAGE_PIXELS`) or another number of channels
    raises one of [`DECODING_ERRORS`].
    """
    if isinstance(value, dict):
        value = value["bytes"] if value.get("bytes") is not None else value["path"]
    if isinstance(value, str) and "://" in value:
        value = value.partition("://")[2] if value.startswith("file://") else _fetch(value)
    if isinstance(value, str | Path) and not stat.S_ISREG(os.stat(value).st_mode):
        raise ValueError(f"{str(value)!r} is not a regular file.")
    if is_npy(value):
        if not isinstance(value, bytes):  # else it is in memory already
            check_size(count_values(value) // max(num_channels, _MOST_BANDS), 1, max_image_pixels)
        value = read_npy(value)
    if isinstance(value, str | Path | bytes):
        with _pil_limit(max_image_pixels):
            value = Image.open(io.BytesIO(value) if isinstance(value, bytes) else value)
        if value.format == "FITS" and value.mode != "L":
            raise ValueError("PIL misreads FITS images of more than 8 bits: convert them to TIFF or .npy.")
    elif isinstance(value, np.ndarray | list):
        value = eight_bit_channels_last(value, num_channels, pixel_range)
        if num_channels in (1, 3):
            value = Image.fromarray(value)
    if isinstance(value, EpsImageFile):
        raise ValueError("EPS files are programs, which PIL would run with Ghostscript: convert the image to PNG.")
    if isinstance(value, IptcImageFile):
        raise ValueError("IPTC files may contain any other file, of any size and even EPS: convert the image to PNG.")
    if not isinstance(value, Image.Image | np.ndarray):
        raise TypeError(f"An image must be a PIL image, bytes, a path or an array, got {type(value).__name__}.")
    check_size(*stored_size(value), max_image_pixels)
    return value


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


def resized(image: Pixels, size: tuple[int, int]) -> Pixels:
    """A whole decoded image at this width and height."""
    if isinstance(image, Image.Image):
        return image.resize(size, Image.Resampling.BICUBIC)
    return np.dstack([np.asarray(resized(Image.fromarray(band), size)) for band in np.moveaxis(image, -1, 0)])


def upright_size(image: Pixels) -> tuple[int, int]:
    """Width and height that the image has after [`load_upright`], from the header alone."""
    width, height = stored_size(image)
    # PIL turns TIFFs itself, and has their size upright from the beginning.
    if isinstance(image, np.ndarray) or image.format == "TIFF":
        return width, height
    return (height, width) if image.getexif().get(_ORIENTATION, 1) in _TURNED else (width, height)


def load_upright(
    image: Pixels, reduction: int = 1, num_channels: int = 3, pixel_range: list[float] | None = None
) -> Pixels:
    """
    Decode what [`open_image`] opened for the same `num_channels` and `pixel_range`: 8 bits a channel, upright.

    Width and height may become up to `reduction` times smaller: JPEGs are decoded at the next power of two below it,
    up to 8, which saves work; other formats and images that are loaded already ignore it. For 1 channel the mode is
    `"L"`, the luminance of colours; for 3 `"L"` or `"RGB"`; otherwise the bands of the image, or the pages of a TIFF,
    become an array `(H, W, num_channels)`. Nothing else is converted.
    """
    if isinstance(image, np.ndarray):
        return image
    if pixel_range is not None and _has_deep_colours(image):
        image = _deep_colours(image, pixel_range)
    mode = "L" if num_channels == 1 else None  # JPEGs then leave their colours undecoded
    if mode or reduction > 1:
        reduction = max(1, reduction)
        image.draft(mode, (image.width // reduction, image.height // reduction))
    try:
        image.load()
    except MemoryError as error:
        way_out = "Lower `max_image_pixels` to leave such images out before they are decoded."
        raise MemoryError(f"{image.width} x {image.height} pixels do not fit into memory. {way_out}") from error
    if image.getexif().get(_ORIENTATION, 1) != 1:  # reads the header; transposing would copy every image
        image = ImageOps.exif_transpose(image)
    if num_channels not in (1, 3):
        return _channels(image, num_channels, pixel_range)
    image = to_eight_bit(image, pixel_range)
    return image.convert(mode) if mode else image


def _has_deep_colours(image: Image.Image) -> bool:
    """Whether a file that is not loaded has several bands of 16 bits, of which PIL would keep the upper 8."""
    tile = image.tile if isinstance(image, ImageFile.ImageFile) else []
    return bool(tile) and len(image.getbands()) > 1 and ";16" in str(tile[0].args)


def _deep_colours(image: Image.Image, pixel_range: list[float]) -> Image.Image:
    """Bands of 16 bits, scaled to 8 by `pixel_range`; transparency keeps its own range."""
    if image.format != "PNG":
        way_out = "Save the image as 16-bit PNG or .npy, or leave out `pixel_range`."
        raise ValueError(
            f"`pixel_range` needs all 16 bits of each colour, and PIL reads 8 from {image.format}. {way_out}"
        )
    from torch import frombuffer, uint8
    from torchvision import io as torchvision_io  # type: ignore[import-untyped]

    file = cast("io.BytesIO", cast("ImageFile.ImageFile", image).fp)
    file.seek(0)
    data = frombuffer(bytearray(file.read()), dtype=uint8)
    bands = torchvision_io.decode_image(data, torchvision_io.ImageReadMode.UNCHANGED).numpy()
    colours, transparency = np.split(bands, [3 if len(bands) > 2 else 1])
    scaled = np.concatenate([to_eight_bit_array(colours, pixel_range), (transparency >> 8).astype(np.uint8)])
    deep = Image.fromarray(np.ascontiguousarray(np.moveaxis(scaled, 0, -1)))
    deep.info = image.info  # with the orientation
    return deep


def _channels(image: Image.Image, num_channels: int, pixel_range: list[float] | None) -> np.ndarray:
    """The bands of all pages, one after the other, as channels."""
    if image.mode == "P":
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    pages = image.n_frames if isinstance(image, TiffImageFile) else 1
    if pages * len(image.getbands()) != num_channels:
        raise wrong_channels(pages * len(image.getbands()), num_channels)
    opened = _pages_of(image) if pages > 1 else [image]
    return np.dstack(
        [np.asarray(page if len(page.getbands()) > 1 else to_eight_bit(page, pixel_range)) for page in opened]
    )


def _pages_of(image: Image.Image) -> Iterator[Image.Image]:
    """The pages of a TIFF, which must be as large as the first one, whose size was checked."""
    size = image.size
    for page in ImageSequence.Iterator(image):
        if page.size != size:
            raise ValueError(f"The pages of the TIFF have different sizes: {size} and {page.size} pixels.")
        yield page


def decode_image(
    value: Encoded, num_channels: int = 3, pixel_range: list[float] | None = None, max_image_pixels: int | None = None
) -> Pixels:
    """[`open_image`] and [`load_upright`] in one: whatever a row holds -> an upright image, 8 bits a channel."""
    return load_upright(open_image(value, num_channels, pixel_range, max_image_pixels), 1, num_channels, pixel_range)


def to_eight_bit(image: Image.Image, pixel_range: list[float] | None = None) -> Image.Image:
    """
    Convert an image of any mode to 8 bits a channel: greyscale stays one channel, every other mode becomes RGB.

    16-bit images are scaled (PIL's own conversion saturates them to white); transparency is dropped, as in
    transformers' image processors. `pixel_range` has the values that become black and white in 16-bit and float
    images; if missing, 0 and 65535, for floats 0 and 1, or 0 and 255 if most of the positive values are above 1.
    """
    if image.mode in ("L", "RGB"):
        return image
    if image.mode == "F" and pixel_range is None:
        values = np.asarray(image)
        # Not by the largest one: a single pixel beyond 1, or infinite, would make all others black.
        pixel_range = [0.0, 255.0 if (values > 1).sum() > (values > 0).sum() / 2 else 1.0]
    if pixel_range is not None and image.mode in (*_SIXTEEN_BIT, "F"):
        return Image.fromarray(to_eight_bit_array(np.asarray(image), pixel_range))
    if image.mode in _SIXTEEN_BIT:
        return Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
    if image.mode in ("1", "LA"):
        return image.convert("L")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")
