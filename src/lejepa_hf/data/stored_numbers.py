"""What the header of an image says of the numbers in it, also where PIL has scaled or inverted them."""

import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from .pixel_arrays import to_eight_bit_array
from .pixel_ranges import PixelRange

BITS, _PHOTOMETRIC, SAMPLES, PLANAR, _KIND = 258, 262, 277, 284, 339  # tags of TIFF
GDAL_NO_DATA = 42113
_TYPES = {1: "u", 2: "i", 3: "f", 4: "u"}  # of `_KIND`; 4 is undefined
BYTE, _SHORT = 8, 16  # bits
_HEAD = 1 << 16  # bytes in which formats say how many bits they have, but after long metadata


class Told(NamedTuple):
    """
    What a file says of its values.

    Args:
        dtype (`np.dtype`): Their type.
        file_range (`list[float]`, *optional*): Values of black and white, if the file has fewer bits than the type.
        no_data (`float`, *optional*): The value that means that there is none.
        is_inverted (`bool`, *optional*, defaults to `False`): Whether low values are white.
        zero, step (`float`, *optional*, defaults to 0 and 1): The value that PIL shows as 0, and by how much PIL's
            number grows with each unit.
    """

    dtype: np.dtype
    file_range: list[float] | None = None
    no_data: float | None = None
    is_inverted: bool = False
    zero: float = 0
    step: float = 1

    def stored(self, array: np.ndarray) -> np.ndarray:
        """The numbers of PIL -> those of the file."""
        if (self.zero, self.step) != (0, 1):
            array = np.rint(self.zero + array / self.step)
        return array.astype(self.dtype, copy=False)

    def to_eight_bit(self, array: np.ndarray, pixel_range: PixelRange | None) -> np.ndarray:
        """Numbers of the file, or of PIL -> uint8."""
        stored = self.stored(array)
        return to_eight_bit_array(stored, pixel_range, self.file_range, self.no_data, self.is_inverted)


def told_by(image: Image.Image) -> Told | None:
    """
    What an image that PIL opened but has not loaded says of its values; None if it says nothing, or if PIL keeps fewer
    bits of them ([`~data.deep_files.deep_colours`]).
    """
    known = _KNOWN.get(image.format or "")
    if known is None or not isinstance(image, ImageFile.ImageFile):
        return None
    is_loaded = not isinstance(image, TiffImageFile) and (not image.tile or image.fp is None)  # a TIFF keeps its tags
    return None if is_loaded else known(image)


def _told_by_tiff(image: TiffImageFile) -> Told | None:
    """What the page of a TIFF says of its one band."""
    tags = image.tag_v2
    bits = tags.get(BITS, (1,))[0]
    no_data = number_of(tags.get(GDAL_NO_DATA))
    if tags.get(SAMPLES, 1) > 1 and bits > BYTE and tags.get(PLANAR, 1) == 2:  # opened with PIL by the caller
        raise ValueError("PIL misreads TIFFs with planes of more than 8 bits: give the path or the bytes of the file.")
    if tags.get(SAMPLES, 1) > 1 or bits == 1 or image.mode == "P":
        return None
    told = told_of(bits, tags.get(_KIND, (1,))[0], tags.get(_PHOTOMETRIC, 1), no_data)
    if bits > BYTE:
        return told
    white, scale = 2.0**bits - 1, 255 / (2.0**bits - 1)
    # PIL scales fewer bits to 8, and inverts them where low values are white.
    zero, step = (white, -scale) if told.is_inverted and told.dtype == np.uint8 else (0, scale)
    is_plain = told.dtype == np.uint8 and no_data is None and (zero, step) == (0, 1)
    return None if is_plain else told._replace(zero=zero, step=step)


def told_of(bits: int, kind: int, photometric: int, no_data: float | None) -> Told:
    """What the tags of a TIFF with the bits, the kind and the meaning of its values say."""
    stored = next((size for size in (8, 16, 32, 64) if size >= bits), 0)
    if not stored or kind not in _TYPES:
        raise ValueError(f"The TIFF has values of {bits} bits and kind {kind}: save it as .npy.")
    file_range = None if stored == bits else range_of_bits(bits, _TYPES[kind] == "i")
    return Told(np.dtype(f"{_TYPES[kind]}{stored // 8}"), file_range, no_data, photometric == 0)


def range_of_bits(bits: int, is_signed: bool = False) -> list[float]:
    """The smallest and the largest integer of so many bits."""
    return [-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1] if is_signed else [0.0, 2.0**bits - 1]


def number_of(text: str | None) -> float | None:
    """The number in the tag with the no-data value of GDAL."""
    try:
        return float(text.strip("\0 ")) if text else None
    except ValueError:
        return None


def _told_by_png(image: ImageFile.ImageFile) -> Told | None:
    """Grey values of 2 or 4 bits, which PIL scales to 8."""
    arguments = image.tile[0].args if image.mode == "L" else None
    if arguments not in ("L;2", "L;4"):
        return None
    bits = int(arguments[-1])
    return Told(np.dtype("u1"), range_of_bits(bits), step=255 / (2**bits - 1))


def _told_by_ppm(image: ImageFile.ImageFile) -> Told | None:
    """Values up to another largest one than that of 8 or 16 bits, to which PIL scales them."""
    white, whole = largest_of_ppm(image), 65535 if image.mode == "I" else 255
    if white is None or white >= whole:
        return None
    return Told(np.dtype("u2" if image.mode == "I" else "u1"), [0.0, float(white)], step=whole / white)


def largest_of_ppm(image: ImageFile.ImageFile) -> int | None:
    """The value of white in a PPM that is not loaded; None for floats and where it is the largest of 8 or 16 bits."""
    arguments = image.tile[0].args
    return arguments[-1] if isinstance(arguments, tuple) and isinstance(arguments[-1], int) else None


def _told_by_jpeg2000(image: ImageFile.ImageFile) -> Told | None:
    """Values of fewer bits than PIL fills up, or with a sign, which PIL shifts to be positive."""
    components = components_of_jpeg2000(image)
    filled = _SHORT if image.mode == "I;16" else BYTE
    if len(set(components)) != 1 or image.mode not in ("I;16", "L", "LA", "RGB", "RGBA"):
        return None
    bits, is_signed = components[0]
    if bits > filled or (bits == filled and not is_signed):
        return None
    file_range = range_of_bits(bits, is_signed)
    dtype = np.dtype(f"{'i' if is_signed else 'u'}{filled // 8}")
    return Told(dtype, file_range, zero=file_range[0], step=2.0 ** (filled - bits))


def components_of_jpeg2000(image: ImageFile.ImageFile) -> list[tuple[int, bool]]:
    """Bits of each channel of a JPEG 2000 that is not loaded, and whether its values have a sign."""
    data = _read_from(image, 0, _HEAD)
    begin = data.find(b"\xff\x4f\xff\x51")  # of its code, which says the size
    if begin < 0:
        data = _read_from(image, 0, -1)
        begin = data.find(b"\xff\x4f\xff\x51")
    number = int.from_bytes(data[begin + 40 : begin + 42], "big") if begin >= 0 else 0
    depths = data[begin + 42 : begin + 42 + 3 * number : 3]
    return [((depth & 0x7F) + 1, depth >= 0x80) for depth in depths]


def bits_of(image: ImageFile.ImageFile) -> int:
    """Bits of a channel of an AVIF, HEIC or SGI file that is not loaded."""
    if image.format == "HEIF":
        return image.info.get("bit_depth", BYTE)
    head = _read_from(image, 0, _HEAD)
    if image.format == "SGI":
        return BYTE * head[3]
    # The configuration of AV1: a bit for more than 8 bits, and one for 12.
    flags = [found[1][0] for found in re.finditer(rb"av1C\x81.(.)", head, re.DOTALL)]
    return max(((12 if flag & 0x20 else 10) if flag & 0x40 else BYTE for flag in flags), default=BYTE)


def _read_from(image: ImageFile.ImageFile, start: int, number: int) -> bytes:
    assert image.fp is not None, "an image that is not loaded has its file open"
    place = image.fp.tell()
    image.fp.seek(start)
    data = image.fp.read(number)
    image.fp.seek(place)
    return data


_KNOWN: dict[str, Callable] = {
    "TIFF": _told_by_tiff,
    "PNG": _told_by_png,
    "PPM": _told_by_ppm,
    "JPEG2000": _told_by_jpeg2000,
}
