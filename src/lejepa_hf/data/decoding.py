"""From whatever a dataset row holds to an 8-bit PIL image."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N", "I")


def decode_image(value) -> Image.Image:
    """
    Decode an image as `datasets` stores it.

    Args:
        value: A `PIL.Image.Image`, encoded `bytes`, a path, an array, or `{"bytes": ..., "path": ...}`.

    Returns:
        `PIL.Image.Image`: Loaded, upright, mode `"L"` or `"RGB"`, see [`to_eight_bit`].

    Raises:
        TypeError: If `value` is none of these.
        OSError: If the bytes are no image or a truncated one.
    """
    if isinstance(value, dict):
        value = value["bytes"] if value.get("bytes") is not None else value["path"]
    if isinstance(value, bytes):
        value = Image.open(io.BytesIO(value))
    elif isinstance(value, str | Path):
        value = Image.open(value)
    elif isinstance(value, np.ndarray):
        value = Image.fromarray(value)
    if not isinstance(value, Image.Image):
        raise TypeError(f"An image must be a PIL image, bytes, a path or an array, got {type(value).__name__}.")
    value.load()
    return to_eight_bit(ImageOps.exif_transpose(value))


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
