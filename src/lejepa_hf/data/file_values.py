"""The values of an image as its file has them, whatever a row holds: for what is said of images, not for training."""

from functools import partial
from typing import NamedTuple

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from .decoding import (
    check_size,
    head_of,
    identified,
    loaded_upright,
    locate,
    open_or_none,
    orientation_of,
    stored_size,
    with_array,
    without_palette,
)
from .deep_files import full_pages, is_reduced, values_otherwise
from .pixel_arrays import image_array
from .readers.known_readers import dicom_reader, find_reader, is_dicom
from .readers.reader import Values

_SMALL = 256  # pixels; JPEGs are decoded to about this side
_WITH_TRANSPARENCY = ("LA", "La", "RGBA", "RGBa")  # modes of PIL


class FoundValues(NamedTuple):
    """The values of an image as they are in its file, its format, width and height."""

    values: Values
    kind: str
    size: tuple[int, int]


def values_in_file(value: object, num_channels: int = 3, max_image_pixels: int | None = None) -> FoundValues:
    """
    The values of an image of a row as they are in its file, upright; JPEGs may be smaller. Of a TIFF with several
    pages they are those of the first one if all together are not `num_channels`. One of `DECODING_ERRORS` if they
    cannot be read.
    """
    if isinstance(value, dict) and value.get("bytes") is None:
        value = value.get("path")
    if isinstance(value, str) and "://" in value and not value.startswith("file://"):
        raise ValueError("An image behind a url is not read before training.")
    file, part = locate(value)  # type: ignore[arg-type] # whatever a row holds
    if isinstance(file, str | bytes) and (reader := find_reader(file, part)) is not None:
        values = reader.values(file, part, max_image_pixels)
        return FoundValues(values, f"{reader.format}s", stored_size(values.array))
    file = with_array(file, num_channels, max_image_pixels)
    if isinstance(file, np.ndarray | list):
        array = image_array(file)
        return FoundValues(Values(array), "arrays", stored_size(array))
    if isinstance(file, Image.Image):
        return FoundValues(values_of_image(file, num_channels), file.format or "images", file.size)
    if not isinstance(file, str | bytes):
        raise TypeError(f"{type(file).__name__} is not an image.")
    opened = open_or_none(file, max_image_pixels)
    size, kind = (None, "other files") if opened is None else (opened.size, opened.format or "images")
    if opened is not None:
        opened.draft(None, (_SMALL, _SMALL))
    values = _values_of_file(file, opened, num_channels, max_image_pixels)
    return FoundValues(values, kind, size or stored_size(values.array))


def stored_values(file: str | bytes, max_image_pixels: int | None) -> Values:
    """The values of all bands of a file that PIL opens or for whose format there is a library, upright."""
    return _values_of_file(file, open_or_none(file, max_image_pixels), 0, max_image_pixels)


def _values_of_file(
    file: str | bytes, opened: Image.Image | None, num_channels: int, max_image_pixels: int | None
) -> Values:
    if opened is None and is_dicom(head_of(file)):  # without the ending
        return dicom_reader().values(file, None, max_image_pixels)
    check = partial(check_size, max_image_pixels=max_image_pixels)
    values = values_otherwise(file, opened, num_channels, check)
    if values is not None:
        return values
    image = identified(opened, file)
    check(*image.size)
    return values_of_image(image, num_channels)


def values_of_image(image: Image.Image, num_channels: int, page: int | None = None) -> Values:
    """
    The values of an image that PIL opened, of one page of it, or of all pages of a TIFF: of its first one if all
    together have other numbers of channels; 0 for any number.
    """
    pages = full_pages(image) if page is None else [page]
    if num_channels and len(pages) * len(image.getbands()) != num_channels:
        pages = pages[:1]
    found = []
    for number in pages:
        if len(pages) > 1 or page is not None:
            image.seek(number)
        found.append(_values_of_page(image))
    if len(found) == 1:
        return found[0]
    missing = ~np.dstack([one.is_known for one in found])
    return Values(np.dstack([one.array for one in found]), found[0].pixel_range, missing)


def _values_of_page(image: Image.Image) -> Values:
    if isinstance(image, PngImageFile) and is_reduced(image):
        from .readers.deep_colours import png_values

        return png_values(image).turned(orientation_of(image))
    loaded, told = loaded_upright(image, None)
    loaded = without_palette(loaded)
    array, has_transparency = np.asarray(loaded), loaded.mode in _WITH_TRANSPARENCY
    if told is None:
        if loaded.mode == "I" and array.min(initial=0) >= 0 and array.max(initial=0) <= 0xFFFF:
            array = array.astype(np.uint16)  # PIL has some files of 16 bits as 32
        return Values(array, has_transparency=has_transparency)
    array = told.stored(array)
    missing = None if told.no_data is None else array == told.no_data
    return Values(array, told.file_range, missing, has_transparency=has_transparency)
