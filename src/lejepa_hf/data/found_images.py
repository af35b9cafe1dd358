"""What a source holds, from the headers and values of a few images: one line at the start of a run, and warnings."""

import logging
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

from .dataset_kinds import Mixture
from .decoding import DECODING_ERRORS, open_image, stored_size
from .image_contents import digest_of, image_values
from .image_source import ImageSource
from .pixel_arrays import is_npy, read_npy

logger = logging.getLogger("lejepa_hf")

_SAMPLE = 64  # images that are read
_MOST_VALUES = 10**8  # in all of them together
_SMALL = 256  # pixels; JPEGs are decoded to about this side
_DARK = 16  # times as large as the largest value is the white of images that are nearly black
_SHOWN = 5  # names of classes
_logged: set[tuple] = set()  # a run opens its source several times


class _Seen(NamedTuple):
    """One image: its format, width and height, channels, type of its values, and the smallest and largest of them."""

    kind: str
    size: tuple[int, int]
    channels: int
    dtype: np.dtype
    low: float
    high: float


def log_found_images(source: ImageSource, pixel_range: list[float] | None = None) -> None:
    """
    Log what a source of one dataset holds: number of images; of up to 64 of them, evenly spread, the formats, sizes,
    channels and values; classes. Warn if the images look wrong: nearly black with this `pixel_range`, all of one
    value, one image repeated, or classes of one image each. Broken images are left out, and streams are not read. The
    same source is logged once.
    """
    key = source.name, source.split, source.fingerprint
    if isinstance(source.dataset, Mixture) or key in _logged:
        return
    _logged.add(key)
    values = [] if source.is_stream else list(image_values(source.dataset, source.image_column, _SAMPLE))
    seen = list(_seen(values))
    number = "a stream of images" if source.num_images is None else f"{source.num_images:,} images"
    logger.info(f"{source.name}: {'; '.join([number, *_described(seen), *_classes(source)])}")
    for warning in _warnings(seen, values, pixel_range):
        logger.warning(f"{source.name}: {warning}")


def _seen(values: list[object]) -> Iterator[_Seen]:
    left = _MOST_VALUES
    for value in values:
        if left < 0:
            return
        try:
            array, kind, size = _values_of(value)
        except DECODING_ERRORS:
            continue
        left -= array.size
        if array.size:
            channels = array.shape[-1] if array.ndim == 3 else 1
            yield _Seen(kind, size, channels, array.dtype, np.nanmin(array).item(), np.nanmax(array).item())


def _values_of(value: object) -> tuple[np.ndarray, str, tuple[int, int]]:
    """The values of an image as they are in its file, its format, and width and height."""
    if isinstance(value, dict):
        value = value["bytes"] if value.get("bytes") is not None else value.get("path")
    if isinstance(value, str) and "://" in value:
        raise ValueError("An image behind a url is not read before training.")
    if is_npy(value):
        value = read_npy(value)
    if isinstance(value, np.ndarray):
        return value, "arrays", stored_size(value)
    opened = open_image(value)  # type: ignore[arg-type] # whatever a row holds
    if not isinstance(opened, Image.Image):  # read by a library, and scaled
        return opened, "other files", stored_size(opened)
    size = opened.size
    opened.draft(None, (_SMALL, _SMALL))
    return np.asarray(opened), opened.format or "images", size


def _described(seen: list[_Seen]) -> Iterator[str]:
    if not seen:
        return
    kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(one.kind for one in seen).most_common())
    sizes = sorted((one.size for one in seen), key=np.prod)
    shown = [f"{width} x {height}" for width, height in (sizes[0], sizes[len(sizes) // 2], sizes[-1])]
    yield f"{len(seen)} were read: {kinds}"
    yield f"{shown[0]} pixels" if sizes[0] == sizes[-1] else f"{shown[0]} to {shown[2]} pixels, median {shown[1]}"
    channels = ", ".join(str(number) for number in sorted({one.channels for one in seen}))
    types = ", ".join(sorted({str(one.dtype) for one in seen}))
    low, high = min(one.low for one in seen), max(one.high for one in seen)
    yield f"channels {channels}, values {types} from {low:g} to {high:g}"


def _classes(source: ImageSource) -> Iterator[str]:
    if source.label_kind != "class" or source.is_stream or source.class_names is None:
        return
    labels = [label for label in source.dataset[source.label_column] if label is not None]
    counts = sorted(Counter(labels).values())
    if counts:
        names = ", ".join(source.class_names[:_SHOWN]) + (", ..." if len(source.class_names) > _SHOWN else "")
        yield f"{len(counts)} classes by {source.label_column!r} ({names}) of {counts[0]:,} to {counts[-1]:,} images"
        if counts[-1] == 1 and len(counts) > 1:
            logger.warning(
                f"{source.name}: each of the {len(counts):,} classes in {source.label_column!r} has one image: are "
                "the folders right above the images, or these labels, classes?"
            )


def _warnings(seen: list[_Seen], values: list[object], pixel_range: list[float] | None) -> Iterator[str]:
    if len(seen) < 2:
        return
    low, high = min(one.low for one in seen), max(one.high for one in seen)
    whites = {one.dtype: {"u1": 255, "u2": 65535}.get(one.dtype.str[1:], 1) for one in seen}
    black, white = pixel_range or (0, max(whites.values()))
    is_scaled = pixel_range is None or np.dtype(np.uint8) not in whites  # PIL has the upper bits of some deep colours
    if low < high and is_scaled and (high - black) * _DARK <= white - black:
        yield (
            f"views are nearly black: the values go from {low:g} to {high:g} where white is {white:g}; set "
            "`pixel_range: [low, high]` to the values of black and white in the files."
        )
    if all(one.low == one.high for one in seen):
        yield f"each of the {len(seen)} images that were read has a single value in all its pixels."
    digests = {digest_of(value) for value in values}
    if len(digests) == 1 and None not in digests:
        yield f"all {len(seen)} images that were read are the same one."
