"""Reader: what the reader of a format provides, the parts of a file and the values of one of them."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from ..orientations import UPRIGHT
from ..pixel_arrays import eight_bit_channels_last, to_eight_bit_array
from ..pixel_ranges import PixelRange, range_of_channels
from .addresses import Part

Check: TypeAlias = Callable[[int, int], None]  # is called with width and height before pixels are decoded


@dataclass(frozen=True)
class Cut:
    """
    How files of several images become rows of a dataset.

    Args:
        pages (`str`, *optional*, defaults to `"channels"`): What the pages of a TIFF are, `channels` or `images`.
        slice_axis (`int`, *optional*): Axis of a volume along which each slice is an image, 0, 1 or 2; 2 if missing.
        window_size (`int`, *optional*): Side in pixels of the windows into which each file is cut; whole images if
            missing.
    """

    pages: str = "channels"
    slice_axis: int | None = None
    window_size: int | None = None

    def __post_init__(self) -> None:
        if self.pages not in ("channels", "images"):
            raise ValueError(
                f"`pages` must be 'channels' or 'images', what the pages of a TIFF are, got {self.pages!r}."
            )
        if self.slice_axis not in (None, 0, 1, 2):
            raise ValueError(f"`slice_axis` must be 0, 1 or 2, an axis of the volumes, got {self.slice_axis!r}.")
        size = self.window_size
        if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 1):
            raise ValueError(f"`window_size` must be a number of pixels, at least 1, got {size!r}.")
        if size is not None and self.pages == "images":
            raise ValueError(
                f"`window_size` {size} cuts whole files, and `pages: images` takes them page by page: set one of them."
            )

    @property
    def given(self) -> dict[str, str | int]:
        """The settings that are not the usual ones."""
        return {name: value for name, value in vars(self).items() if value not in (None, "channels")}


@dataclass(frozen=True)
class Values:
    """
    The values of an image as its file has them.

    Args:
        array (`np.ndarray`): Numbers `(H, W)` or `(H, W, channels)`, in the units of the file.
        pixel_range (`list[float]`, *optional*): Values of black and white by the file; the rules for the type of the
            array if missing.
        missing (`np.ndarray`, *optional*): `(H, W)` or `(H, W, channels)`, true where there is no value; shown black.
        is_inverted (`bool`, *optional*, defaults to `False`): Whether low values are white.
        are_colours (`bool`, *optional*, defaults to `True`): Whether 3 channels are RGB; else they are planes.
        shown (`np.ndarray`, *optional*): The picture in [0, 1] by a curve of the file, used in place of `array` unless
            the user gives a range.
        has_transparency (`bool`, *optional*, defaults to `False`): Whether the last channel is transparency, which
            keeps its own range.
    """

    array: np.ndarray
    pixel_range: PixelRange | None = None
    missing: np.ndarray | None = None
    is_inverted: bool = False
    are_colours: bool = True
    shown: np.ndarray | None = None
    has_transparency: bool = False

    @property
    def is_known(self) -> np.ndarray:
        """Where there is a finite value that is not transparency, of the shape of `array`."""
        known = np.isfinite(self.array)
        if self.has_transparency:
            known[..., -1] = False
        if self.missing is not None:
            known &= ~(self.missing if self.missing.ndim == known.ndim else self.missing[..., None])
        return known

    def turned(self, orientation: int) -> "Values":
        """The values upright, by the tag of EXIF of how they are stored."""
        turn = UPRIGHT.get(orientation)
        if turn is None:
            return self
        return replace(self, array=turn(self.array), missing=None if self.missing is None else turn(self.missing))

    def to_eight_bit(self, num_channels: int, pixel_range: PixelRange | None) -> np.ndarray:
        """Scale to uint8 `(H, W)` or `(H, W, channels)`; a `pixel_range` of the user wins."""
        if pixel_range is None and self.shown is not None:
            found = eight_bit_channels_last(self.shown, num_channels, [0.0, 1.0])
        elif self.has_transparency:
            found = eight_bit_channels_last(self._with_transparency(pixel_range), num_channels, None)
        else:
            chosen = pixel_range or self.pixel_range
            found = eight_bit_channels_last(self.array, num_channels, chosen, self.are_colours)
        if self.is_inverted:
            found = 255 - found
        if self.missing is not None and self.missing.any():
            found = found.copy()
            found[self.missing] = 0
        return found

    def window(self, left: int, top: int, width: int, height: int) -> "Values":
        """A part of the image, in pixels from its upper left corner; ValueError if it is not within the image."""
        rows, columns = self.array.shape[:2]
        if left + width > columns or top + height > rows:
            raise ValueError(f"The window {(left, top, width, height)} is not within {columns} x {rows} pixels.")
        inside = slice(top, top + height), slice(left, left + width)
        missing, shown = (None if one is None else one[inside] for one in (self.missing, self.shown))
        return replace(self, array=self.array[inside], missing=missing, shown=shown)

    def _with_transparency(self, pixel_range: PixelRange | None) -> np.ndarray:
        colours = range_of_channels(pixel_range, 0, self.array.shape[-1] - 1) or self.pixel_range
        transparency = to_eight_bit_array(self.array[..., -1:], self.pixel_range)
        return np.concatenate([to_eight_bit_array(self.array[..., :-1], colours), transparency], axis=-1)


class Reader(ABC):
    """
    Reads the files of one format. Files are paths or, for formats that stand in Parquet files and tars, bytes.

    `format` is its name in messages, and `packages` what `pip install` needs to read it.
    """

    format: str
    packages: str

    def parts(self, file: str, cut: Cut) -> list[Part | None]:  # noqa: ARG002
        """The images of a file, from its header alone; `[None]` for a file that is one image."""
        return [None]

    def size(self, file: str, part: Part | None) -> tuple[int, int]:
        """Width and height of one image; all images of a file with equal parts have the same ones."""
        height, width = self.values(file, part, None).array.shape[:2]
        return width, height

    @abstractmethod
    def values(self, file: str | bytes, part: Part | None, max_image_pixels: int | None) -> Values:
        """The values of one image. ValueError if they cannot be read; the message has the way out."""

    def read(
        self,
        file: str | bytes,
        part: Part | None,
        num_channels: int,
        pixel_range: PixelRange | None,
        max_image_pixels: int | None,
    ) -> np.ndarray:
        """The image with 8 bits a channel, uint8 `(H, W)` or `(H, W, channels)`, upright."""
        return self.values(file, part, max_image_pixels).to_eight_bit(num_channels, pixel_range)
