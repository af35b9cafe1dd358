"""Colours of more than 8 bits, of which PIL keeps 8: PNG by torchvision, others by imagecodecs and pillow-heif."""

import io
from pathlib import Path
from typing import cast

import numpy as np
from PIL import Image, ImageFile

from ..orientations import ORIENTATION
from ..stored_numbers import bits_of, components_of_jpeg2000, range_of_bits
from .library import library_for
from .reader import Values

_WITH_TRANSPARENCY = (2, 4)  # channels


def png_values(image: Image.Image) -> Values:
    """The values of a PNG of 16 bits that PIL opened and has not loaded, not turned upright."""
    from torch import frombuffer, uint8
    from torchvision import io as torchvision_io  # type: ignore[import-untyped]

    file = cast("io.BytesIO", cast("ImageFile.ImageFile", image).fp)
    file.seek(0)
    data = frombuffer(bytearray(file.read()), dtype=uint8)
    return _of_bands(
        torchvision_io.decode_image(data, torchvision_io.ImageReadMode.UNCHANGED).numpy().transpose(1, 2, 0)
    )


def colour_values(value: str | Path | bytes, opened: Image.Image) -> Values:
    """
    The values of a JPEG 2000, AVIF or HEIC file that PIL `opened` and has not loaded, upright. ValueError if the
    library for it is not installed.
    """
    content = value if isinstance(value, bytes) else Path(value).read_bytes()
    read = {"JPEG2000": _jpeg2000_values, "AVIF": _avif_values, "HEIF": _heif_values}[opened.format or ""]
    return read(content, cast("ImageFile.ImageFile", opened)).turned(opened.getexif().get(ORIENTATION, 1))


def _jpeg2000_values(content: bytes, opened: ImageFile.ImageFile) -> Values:
    if opened.mode == "CMYK":
        raise ValueError("PIL misreads JPEG 2000 files with inks of more than 8 bits: save the image as TIFF or .npy.")
    bits, is_signed = components_of_jpeg2000(opened)[0]
    with library_for("JPEG 2000", "imagecodecs", misread=True):
        from imagecodecs import jpeg2k_decode

        bands = jpeg2k_decode(content)
    return _of_bands(bands) if opened.mode == "P" else _of_bands(bands, bits, is_signed)


def _avif_values(content: bytes, opened: ImageFile.ImageFile) -> Values:
    bits = bits_of(opened)
    with library_for(f"{bits}-bit AVIF", "imagecodecs", misread=True):
        from imagecodecs import avif_decode

        return _of_bands(avif_decode(content, index=0), bits)


def _heif_values(content: bytes, opened: ImageFile.ImageFile) -> Values:
    bits = bits_of(opened)
    with library_for("HEIC photograph", "pillow-heif"):
        from pillow_heif import open_heif

        file = open_heif(io.BytesIO(content), convert_hdr_to_8bit=False, hdr_to_16bit=False)
        return _of_bands(np.asarray(file), bits)


def _of_bands(bands: np.ndarray, bits: int | None = None, is_signed: bool = False) -> Values:
    """`bits` as the file has them, those of the type if missing."""
    file_range = None if bits in (None, 8 * bands.itemsize) else range_of_bits(bits, is_signed)
    number = bands.shape[2] if bands.ndim == 3 else 1
    return Values(bands, file_range, has_transparency=number in _WITH_TRANSPARENCY)
