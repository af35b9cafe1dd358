"""Arrays of any type with any number of channels -> 8 bits a channel, channels last."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tokenize import TokenError
from typing import Any, TypeGuard

import numpy as np

from .pixel_ranges import PixelRange, check_ranges, is_range_of_bytes, ranges_of

NPY_ENDING = ".npy"
_NPY_MAGIC = b"\x93NUMPY"
_PIL_BANDS = (1, 2, 3, 4)  # numbers of channels that PIL turns into greyscale or RGB
_BANDS_FIRST = (1, 3)  # the same before height and width; 2 and 4 may well be channels of another kind


def is_npy(value: object) -> TypeGuard[bytes | str | Path]:
    """Whether a value is the content or the path of a file that `np.save` wrote."""
    if isinstance(value, bytes):
        return value.startswith(_NPY_MAGIC)
    return isinstance(value, str | Path) and Path(value).suffix.lower() == NPY_ENDING


def is_tensor(value: object) -> bool:
    """Whether a value is an array of another library than NumPy, torch for example, which [`array_of`] reads."""
    return hasattr(value, "__array__") and not isinstance(value, np.ndarray)


def array_of(tensor: Any) -> np.ndarray:  # noqa: ANN401, of a library that need not be installed
    """A tensor as a NumPy array, also one of torch that lies on a GPU or has a gradient."""
    return np.asarray(tensor.detach().cpu() if hasattr(tensor, "detach") else tensor)


def mapped_npy(file: str | Path) -> np.ndarray:
    """What `np.save` wrote into a file, of which only the values that are used are read."""
    with _damage_explained():
        return np.lib.format.open_memmap(file, mode="r")


def read_npy(value: bytes | str | Path) -> np.ndarray:
    """Read what `np.save` wrote, from its bytes or a path. Pickles are refused: images come from strangers."""
    data = value if isinstance(value, bytes) else Path(value).read_bytes()
    with _damage_explained():
        return np.load(io.BytesIO(data), allow_pickle=False)


@contextmanager
def _damage_explained() -> Iterator[None]:
    try:
        yield
    except (MemoryError, OverflowError, TokenError) as error:  # images raise the others too: ValueError, EOFError
        raise ValueError(f"The header of the .npy file is damaged: {error}") from error


def wrong_channels(found: int, num_channels: int, pages: int = 1) -> ValueError:
    """The error for an image whose number of channels, in all pages together, differs from that of the views."""
    convert = "convert the images" if pages == 1 else f"set `pages: images` to take its {pages} pages as images"
    way_out = f"give `image_mean` and `image_std` a value for each channel, or {convert}"
    return ValueError(f"The image has {found} channels, but {num_channels} are expected: {way_out}.")


def image_array(value: np.ndarray | list) -> np.ndarray:
    """An array or list of numbers along two or three axes as an array; TypeError for others."""
    array = np.asarray(value)
    if array.dtype.kind not in "buif" or array.ndim not in (2, 3) or not array.size:
        got = f"{type(value).__name__} of {array.dtype} and shape {array.shape}"
        raise TypeError(f"An array is an image if it has numbers along two or three axes, got {got}.")
    return array


def eight_bit_channels_last(
    value: np.ndarray | list, num_channels: int, pixel_range: PixelRange | None, are_colours: bool = True
) -> np.ndarray:
    """
    Convert an array to uint8 of shape `(H, W)` or `(H, W, channels)`.

    It is `(H, W, C)`, `(C, H, W)` if only the first axis fits, or `(H, W)` for greyscale; if 1 or 3 channels are
    wanted, also one with 1 to 4 channels last, or 1 or 3 first, which PIL turns into greyscale or RGB later. If its
    channels are not `are_colours` but planes, `(H, W, C)`, they must be as many as wanted, or one.
    """
    array = image_array(value)
    if array.ndim == 3 and not are_colours and array.shape[-1] not in (1, num_channels):
        raise wrong_channels(array.shape[-1], num_channels)
    through_pil = num_channels in (1, 3)
    if array.ndim == 2:
        if not through_pil:
            raise wrong_channels(1, num_channels)
    elif array.shape[-1] != num_channels and not (through_pil and array.shape[-1] in _PIL_BANDS):
        if array.shape[0] != num_channels and not (through_pil and array.shape[0] in _BANDS_FIRST):
            raise wrong_channels(array.shape[-1], num_channels)
        array = np.moveaxis(array, 0, -1)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[:, :, 0]
    return np.ascontiguousarray(to_eight_bit_array(array, pixel_range))


def to_eight_bit_array(
    array: np.ndarray,
    pixel_range: PixelRange | None,
    file_range: list[float] | None = None,
    no_data: float | None = None,
    is_inverted: bool = False,
) -> np.ndarray:
    """
    Scale values linearly to uint8.

    The ends of `pixel_range` become 0 and 255; other values are clipped; NaN and `no_data` become 0. Several pairs are
    those of the channels, along the last axis. If the range is missing, it is the `file_range` of files that use fewer
    bits than the type has; else the whole range of 8- and 16-bit integers; [0, 1] for floats and [0, 255] for wider
    integers, which never use their whole range: if more than half of the floats, or a single wide integer, lie
    outside, ValueError. Of uint8 only a range within [0, 255], or within `file_range`, is used: others, and [0, 1],
    are meant for other images beside them. With `is_inverted`, low values are white.
    """
    missing = array == no_data if no_data is not None else np.zeros((), bool)
    if array.dtype.kind == "f" and missing.any():
        array = np.where(missing, np.nan, array)
    if array.dtype == np.uint8 and not is_range_of_bytes(pixel_range, 255 if file_range is None else file_range[1]):
        pixel_range = None
    is_whole = array.dtype == np.uint8 and pixel_range is None and file_range is None
    found = array if is_whole else _scaled(array, pixel_range or file_range)
    if is_inverted:
        found = 255 - found
    return np.where(missing, np.uint8(0), found) if missing.any() else found


def _ends(pixel_range: PixelRange, array: np.ndarray) -> tuple[Any, Any]:
    """Values of black and white, numbers or arrays along the last axis."""
    pairs = ranges_of(pixel_range)
    if len(pairs) == 1:
        return pairs[0][0], pairs[0][1]
    check_ranges(pixel_range, array.shape[2] if array.ndim == 3 else 1)
    low, high = np.array(pairs, dtype=np.float64).T
    return low, high


def _scaled(array: np.ndarray, pixel_range: PixelRange | None) -> np.ndarray:
    kind, bits = array.dtype.kind, 8 * array.dtype.itemsize
    if kind == "b":
        return array.astype(np.uint8) * np.uint8(255)
    if pixel_range is None and kind == "u" and bits == 16:
        return (array >> 8).astype(np.uint8)  # as for 16-bit image files, and faster than through floats
    if pixel_range is None and kind in "ui" and bits > 16:
        if array.min() < 0 or array.max() > 255:
            raise _needs_range(array, 255)
        return array.astype(np.uint8)
    if pixel_range is None and kind == "f":
        # Not by the largest one: a single value beyond 1, NaN or infinite must not change all others.
        # Nor by how much of it is background: zeros lie in each range.
        finite = array[np.isfinite(array) & (array != 0)]
        if ((finite < 0) | (finite > 1)).sum() > len(finite) / 2:
            raise _needs_range(finite, 1)
        pixel_range = [0.0, 1.0]
    low, high = _ends(pixel_range or [float(np.iinfo(array.dtype).min), float(np.iinfo(array.dtype).max)], array)
    kept = np.float32 if bits <= 16 or array.dtype == np.float32 else np.float64
    scaled = array.astype(kept)  # a copy, to be changed in place
    scaled -= kept(low)
    scaled *= kept(255 / (high - low))  # as on cards: other roundings would move values that lie between two levels
    if kind == "f":
        np.nan_to_num(scaled, copy=False, nan=0.0)
    return scaled.clip(0, 255, out=scaled).round(out=scaled).astype(np.uint8)


def _needs_range(array: np.ndarray, usual: int) -> ValueError:
    found = f"The values of type {array.dtype} go from {array.min()} to {array.max()}, not from 0 to {usual}"
    return ValueError(f"{found}: set `pixel_range: [low, high]` to the values of black and white.")
