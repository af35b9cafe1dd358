"""Windows of a grid over large images: of a TIFF, a slide or an array only the values of a window are read."""

from dataclasses import replace
from functools import partial

import numpy as np

from ..decoding import check_size, decode_image, open_image, upright_size
from ..file_values import stored_values
from ..pixel_arrays import is_npy, mapped_npy
from ..pixel_ranges import PixelRange
from .addresses import Part
from .fits import fits_size, fits_values
from .known_readers import FITS_ENDINGS, TIFF_ENDINGS, find_reader
from .reader import Cut, Reader, Values
from .tiff import Window, read_tiff, stored_size_of, tiff_values

_ANY_SIZE = 2**62  # pixels; only a header is read


class Windows(Reader):
    """
    Cuts files into windows. TIFFs and slides are read by tifffile, and `.npy` files are mapped into memory; of other
    files the whole image, slice or frame is decoded for each window.
    """

    format = "image"
    packages = "tifffile imagecodecs"

    def parts(self, file: str, cut: Cut) -> list[Part | None]:
        """
        The windows of the grid over each image of the file, row by row; what is left at the right and lower edge is
        not used.
        """
        assert cut.window_size is not None, "only then there are windows"
        reader, side = find_reader(file), cut.window_size
        images = [None] if reader is None else reader.parts(file, replace(cut, window_size=None))
        width, height = _size_of(file) if reader is None else reader.size(file, images[0])
        tops, lefts = (range(0, size - side + 1, side) for size in (height, width))
        return [Part("window", (left, top, side, side), of) for of in images for top in tops for left in lefts]

    def read(
        self,
        file: str | bytes,
        part: Part | None,
        num_channels: int,
        pixel_range: PixelRange | None,
        max_image_pixels: int | None,
    ) -> np.ndarray:
        """The window with 8 bits a channel."""
        window = _window_of(part)
        if _is_tiff(file):
            check = partial(check_size, max_image_pixels=max_image_pixels)
            return read_tiff(file, num_channels, pixel_range, check, window=window)
        found = _values(file, part, window, max_image_pixels)
        if found is None:
            found = Values(np.asarray(decode_image(file, num_channels, pixel_range, max_image_pixels)))
            return found.window(*window).array
        return found.window(*window).to_eight_bit(num_channels, pixel_range)

    def values(self, file: str | bytes, part: Part | None, max_image_pixels: int | None) -> Values:
        """The values of all bands of the window."""
        window = _window_of(part)
        if _is_tiff(file):
            return tiff_values(file, 0, partial(check_size, max_image_pixels=max_image_pixels), window=window)
        found = _values(file, part, window, max_image_pixels)
        return (stored_values(file, max_image_pixels) if found is None else found).window(*window)


def _values(file: str | bytes, part: Part | None, window: Window, max_image_pixels: int | None) -> Values | None:
    """The values of the whole image, None for files that PIL reads."""
    of = None if part is None else part.of
    if (reader := find_reader(file, of)) is not None:
        return reader.values(file, of, max_image_pixels)
    if is_npy(file):
        check_size(window.width, window.height, max_image_pixels)
        return Values(_channels_last(mapped_npy(str(file))))
    if str(file).lower().endswith(FITS_ENDINGS):
        return fits_values(file, partial(check_size, max_image_pixels=max_image_pixels))
    return None


def _channels_last(array: np.ndarray) -> np.ndarray:
    """An array whose channels are the shorter one of its first and last axes."""
    if array.ndim not in (2, 3):
        raise ValueError(f"The array has the shape {array.shape}: an image has two or three axes.")
    return np.moveaxis(array, 0, -1) if array.ndim > 2 and array.shape[0] < array.shape[-1] else array


def _size_of(file: str) -> tuple[int, int]:
    """Width and height of an image, from its header."""
    if _is_tiff(file):
        return stored_size_of(file)
    if is_npy(file):
        height, width = _channels_last(mapped_npy(file)).shape[:2]
        return width, height
    if file.lower().endswith(FITS_ENDINGS):
        return fits_size(file)
    return upright_size(open_image(file, max_image_pixels=_ANY_SIZE))


def _is_tiff(file: str | bytes) -> bool:
    return isinstance(file, str) and file.lower().endswith(TIFF_ENDINGS)


def _window_of(part: Part | None) -> Window:
    if part is None or len(part.numbers) != len(Window._fields):
        raise ValueError("A window has four numbers: left, top, width and height.")
    return Window(*part.numbers)
