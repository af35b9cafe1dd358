"""Windows of a grid over large images: only the tiles of a TIFF that a window touches are read."""

from dataclasses import replace
from functools import partial

import numpy as np

from ..decoding import check_size, decode_image, open_image, upright_size
from ..file_values import stored_values
from ..pixel_ranges import PixelRange
from .addresses import Part
from .known_readers import TIFF_ENDINGS
from .reader import Cut, Reader, Values
from .tiff import Window, read_tiff, stored_size_of, tiff_values

_ANY_SIZE = 2**62  # pixels; only a header is read


class Windows(Reader):
    """Cuts files into windows. TIFFs and slides are read by tifffile; other files are decoded as a whole for each."""

    format = "image"
    packages = "tifffile imagecodecs"

    def parts(self, file: str, cut: Cut) -> list[Part | None]:
        """The windows of the grid, row by row; what is left at the right and lower edge is not used."""
        assert cut.window_size is not None, "only then there are windows"
        width, height = stored_size_of(file) if _is_tiff(file) else _upright_size(file)
        size = cut.window_size
        corners = [
            (left, top) for top in range(0, height - size + 1, size) for left in range(0, width - size + 1, size)
        ]
        return [Part("window", (*corner, size, size)) for corner in corners]

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
        if isinstance(file, str) and _is_tiff(file):
            check = partial(check_size, max_image_pixels=max_image_pixels)
            return read_tiff(file, num_channels, pixel_range, check, window=window)
        whole = np.asarray(decode_image(file, num_channels, pixel_range, max_image_pixels))
        found = whole[window.top : window.top + window.height, window.left : window.left + window.width]
        if found.shape[:2] != (window.height, window.width):
            raise ValueError(f"The window {tuple(window)} is not within {whole.shape[1]} x {whole.shape[0]} pixels.")
        return found

    def values(self, file: str | bytes, part: Part | None, max_image_pixels: int | None) -> Values:
        """The values of all bands of the window."""
        window = _window_of(part)
        if isinstance(file, str) and _is_tiff(file):
            return tiff_values(file, 0, partial(check_size, max_image_pixels=max_image_pixels), window=window)
        whole = stored_values(file, max_image_pixels)
        inside = slice(window.top, window.top + window.height), slice(window.left, window.left + window.width)
        missing = None if whole.missing is None else whole.missing[inside]
        return replace(whole, array=whole.array[inside], missing=missing)


def _is_tiff(file: str) -> bool:
    return file.lower().endswith(TIFF_ENDINGS)


def _upright_size(file: str) -> tuple[int, int]:
    return upright_size(open_image(file, max_image_pixels=_ANY_SIZE))


def _window_of(part: Part | None) -> Window:
    if part is None or len(part.numbers) != len(Window._fields):
        raise ValueError("A window has four numbers: left, top, width and height.")
    return Window(*part.numbers)
