"""NIfTI volumes: each slice along an axis is an image."""

from typing import Any

import numpy as np

from ..decoding import check_size
from .addresses import Part
from .library import library_for
from .reader import Cut, Reader, Values

_LAST_AXIS = 2
_VOLUME, _SERIES = 3, 4  # numbers of axes


class Nifti(Reader):
    """
    Reads slices of NIfTI volumes, scaled by the header. The first of the two axes that are left is the height. Black
    and white are `cal_min` and `cal_max` of the header where it has them. A fourth axis has the channels.
    """

    format = "NIfTI volume"
    packages = "nibabel"

    def parts(self, file: str, cut: Cut) -> list[Part | None]:
        """The slices along `slice_axis`."""
        with library_for(self.format, self.packages):
            shape = _volume(file).shape
        axis = _LAST_AXIS if cut.slice_axis is None else cut.slice_axis
        if len(shape) < _VOLUME:
            return [None]
        return [Part("slice", (number,) if axis == _LAST_AXIS else (number, axis)) for number in range(shape[axis])]

    def size(self, file: str, part: Part | None) -> tuple[int, int]:
        """Width and height by the header."""
        with library_for(self.format, self.packages):
            return _size(_volume(file).shape, part)

    def values(self, file: str | bytes, part: Part | None, max_image_pixels: int | None) -> Values:
        """A slice, `(H, W)` or `(H, W, channels)`."""
        with library_for(self.format, self.packages):
            volume = _volume(file)
            shape = volume.shape
            if len(shape) > _SERIES:
                raise ValueError(
                    f"The volume has {len(shape)} axes {shape}: save it with 3, or 4 of which the last are channels."
                )
            if part is not None and part.name != "slice":
                raise ValueError(f"A volume has slices, not a {part.name}.")
            if part is None and len(shape) > 2:
                raise ValueError(
                    f"The volume {shape} has slices, of which none is named: name its folder as `dataset`."
                )
            number, axis = _place(part)
            index = [slice(None)] * len(shape)
            if part is not None:
                if axis >= min(len(shape), _VOLUME) or number >= shape[axis]:
                    raise ValueError(f"The volume {shape} has no slice {number} along axis {axis}.")
                index[axis] = number  # type: ignore[call-overload]
            check_size(*_size(shape, part), max_image_pixels)
            array = np.asarray(volume.dataobj[tuple(index)])
            low, high = (float(volume.header[name]) for name in ("cal_min", "cal_max"))
            pixel_range = [low, high] if high > low else None
            return Values(array, pixel_range, are_colours=False)


def _place(part: Part | None) -> tuple[int, int]:
    """The number of a slice, and the axis along which it is one."""
    number, axis = (*(part.numbers if part is not None else ()), _LAST_AXIS, _LAST_AXIS)[:2]
    return number, axis


def _size(shape: tuple[int, ...], part: Part | None) -> tuple[int, int]:
    """Width and height of a slice."""
    axis = None if part is None else _place(part)[1]
    height, width = [size for place, size in enumerate(shape[:_VOLUME]) if place != axis]
    return width, height


def _volume(file: str | bytes) -> Any:  # noqa: ANN401, any image of nibabel
    import nibabel

    if isinstance(file, bytes):
        raise ValueError("A volume is not a single image: put it into a folder, where each slice is one.")
    return nibabel.load(file)
