"""From whatever a dataset row holds to an 8-bit PIL image."""

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from .network import read_through

_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N", "I")
# What PIL's decoders raise for bytes they cannot read (AVIF's a RuntimeError), a missing image (None) and a
# decompression bomb included.
DECODING_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    EOFError,
    RuntimeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
_ORIENTATION = 0x0112  # EXIF
_TURNED = (5, 6, 7, 8)  # width and height are exchanged


def open_image(value) -> Image.Image:
    """
    Open an image as `datasets` stores it, without decoding its pixels.

    Args:
        value: A `PIL.Image.Image`, encoded `bytes`, a path or url, an array, or `{"bytes": ..., "path": ...}`.

    Returns:
        `PIL.Image.Image`: As the file has it, not loaded.

    Raises:
        TypeError: If `value` is none of these.
        OSError: If the bytes are no image.
        PIL.Image.DecompressionBombError: If the image has more pixels than `PIL.Image.MAX_IMAGE_PIXELS`.
    """
    if isinstance(value, dict):
        value = value["bytes"] if value.get("bytes") is not None else value["path"]
    if isinstance(value, str) and "://" in value:
        value = _fetch(value)
    if isinstance(value, bytes):
        value = io.BytesIO(value)
    if isinstance(value, str | Path | io.BytesIO):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # refused below, not warned about
            value = Image.open(value)
    elif isinstance(value, np.ndarray):
        value = Image.fromarray(value)
    if not isinstance(value, Image.Image):
        raise TypeError(f"An image must be a PIL image, bytes, a path or an array, got {type(value).__name__}.")
    limit = Image.MAX_IMAGE_PIXELS
    if limit and value.width * value.height > limit:
        raise Image.DecompressionBombError(
            f"{value.width} x {value.height} pixels are more than PIL.Image.MAX_IMAGE_PIXELS, {limit}"
        )
    return value


def _fetch(url: str) -> bytes:
    """The bytes behind a url; rows of a streamed folder on the Hub name files instead of holding them."""
    import fsspec

    def read():
        with fsspec.open(url, "rb") as file:
            yield file.read()

    return next(read_through(read, url))


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height as [`load_upright`] will have them, from the header alone."""
    # PIL turns TIFFs itself, and has their size upright from the beginning.
    turned = image.format != "TIFF" and image.getexif().get(_ORIENTATION) in _TURNED
    return (image.height, image.width) if turned else image.size


def load_upright(image: Image.Image, reduction: int = 1) -> Image.Image:
    """
    Decode what [`open_image`] opened.

    Args:
        image (`PIL.Image.Image`): Not loaded; a loaded one is not reduced.
        reduction (`int`, *optional*, defaults to 1): How many times smaller width and height may become. For JPEGs
            the next power of two below, up to 8, is taken and the work on the rest is spared; others ignore it.

    Returns:
        `PIL.Image.Image`: Loaded, upright, mode `"L"` or `"RGB"`, see [`to_eight_bit`].

    Raises:
        OSError: If the image is truncated.
    """
    if reduction > 1:
        image.draft(None, (image.width // reduction, image.height // reduction))
    image.load()
    if image.getexif().get(_ORIENTATION, 1) != 1:  # a look at the header instead of a copy of every image
        image = ImageOps.exif_transpose(image)
    return to_eight_bit(image)


def decode_image(value) -> Image.Image:
    """[`open_image`] and [`load_upright`] in one: whatever a row holds -> an upright image, mode `"L"` or `"RGB"`."""
    return load_upright(open_image(value))


def to_eight_bit(image: Image.Image) -> Image.Image:
    """
    The same picture with 8 bits a channel: greyscale stays one channel, every other mode becomes RGB.

    16-bit images are scaled (PIL's own conversion saturates them to white); transparency is dropped as
    transformers' image processors do.

    Args:
        image (`PIL.Image.Image`): Any mode, CMYK, palette, alpha and 16-bit included.

    Returns:
        `PIL.Image.Image`: Mode `"L"` or `"RGB"`.
    """
    if image.mode in ("L", "RGB"):
        return image
    if image.mode in _SIXTEEN_BIT:
        return Image.fromarray((np.asarray(image, dtype=np.int64).clip(0, 65535) >> 8).astype(np.uint8))
    if image.mode == "F":
        values = np.asarray(image)
        scale = 255 if values.max(initial=0) <= 1 else 1
        return Image.fromarray((values * scale).clip(0, 255).round().astype(np.uint8))
    if image.mode in ("1", "LA"):
        return image.convert("L")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")
