"""What a source holds, from the headers and values of a few images: one line at the start of a run, and warnings."""

import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .dataset_kinds import Mixture
from .decoding import DECODING_ERRORS
from .file_values import values_in_file
from .image_contents import digest_of, image_values, whole_digest_of
from .image_source import ImageSource
from .pixel_ranges import PixelRange, ranges_of

logger = logging.getLogger("lejepa_hf")

_SAMPLE = 64  # images that are read
_MOST_VALUES = 10**8  # in all of them together
_DARK = 16  # times as large as the largest value is the white of images that are nearly black
_SHOWN = 5  # names of classes
_MOST_NAMES = 100_000  # of files whose names are looked at
# Ends of the names of files, and names of folders, that datasets give to masks beside their images.
_MASKS = r"(^|[_\-. /\\])(mask|seg|segmentation|gt|ground_?truth|annotation|trimap)s?(\.\w+|[/\\][^/\\]+)$"
_descriptions: dict[tuple, str] = {}  # a run opens its source several times


class _Seen(NamedTuple):
    """
    One image: its format, width and height, channels, type of its values, the smallest and largest of them, and the
    values of black and white if its file says them.
    """

    kind: str
    size: tuple[int, int]
    channels: int
    dtype: np.dtype
    low: float
    high: float
    pixel_range: PixelRange | None = None


def log_found_images(source: ImageSource, pixel_range: PixelRange | None = None, num_channels: int = 3) -> None:
    """
    Log what a source of one dataset holds: number of images; of up to 64 of them, evenly spread, the formats, sizes,
    channels and values as they are in the files, without no-data and transparency; classes. Warn if the images look
    wrong: nearly black with this `pixel_range`, all of one value, one image repeated, masks beside images, or classes
    of one image each. Broken images are left out, and streams are not read. The same source is logged once.
    """
    key = _key(source)
    if isinstance(source.dataset, Mixture) or key in _descriptions:
        return
    values = [] if source.is_stream else list(image_values(source.dataset, source.image_column, _SAMPLE))
    seen = list(_seen(values, num_channels, source.max_image_pixels))
    number = "a stream of images" if source.num_images is None else f"{source.num_images:,} images"
    _descriptions[key] = "; ".join([number, *_described(seen), *_classes(source)])
    logger.info(f"{source.name}: {_descriptions[key]}")
    for warning in (*_warnings(seen, values, pixel_range), *_masks(source)):
        logger.warning(f"{source.name}: {warning}")


def logged_description(source: ImageSource) -> str | None:
    """What [`log_found_images`] said of these images in this process, without their name; None if it did not."""
    return _descriptions.get(_key(source))


def _key(source: ImageSource) -> tuple:
    return source.fingerprint or source.name, source.image_column


def _seen(values: list[object], num_channels: int, max_image_pixels: int | None) -> Iterator[_Seen]:
    left = _MOST_VALUES
    for value in values:
        if left < 0:
            return
        try:
            found = values_in_file(value, num_channels, max_image_pixels)
        except DECODING_ERRORS:
            continue
        array = found.values.array
        left -= array.size
        known = array[found.values.is_known]
        if known.size:
            channels = array.shape[-1] if array.ndim == 3 else 1
            ends = known.min().item(), known.max().item()
            yield _Seen(found.kind, found.size, channels, array.dtype, *ends, found.values.pixel_range)


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


def _warnings(seen: list[_Seen], values: list[object], pixel_range: PixelRange | None) -> Iterator[str]:
    if len(seen) < 2:
        return
    told = [one for one in seen if one.pixel_range is not None]
    if len(told) == len(seen):
        yield from _warning_of_contrast(told, pixel_range)
    low, high = min(one.low for one in seen), max(one.high for one in seen)
    whites = {one.dtype: {"u1": 255, "u2": 65535}.get(one.dtype.str[1:], 1) for one in seen}
    black, white = _widest(pixel_range) or (0, max(whites.values()))
    is_scaled = pixel_range is None or np.dtype(np.uint8) not in whites  # other ranges than of bytes are not theirs
    if not told and low < high and is_scaled and (high - black) * _DARK <= white - black:
        yield (
            f"views are nearly black: the values go from {low:g} to {high:g} where white is {white:g}; set "
            "`pixel_range: [low, high]` to the values of black and white in the files."
        )
    if all(one.low == one.high for one in seen):
        yield f"each of the {len(seen)} images that were read has a single value in all its pixels."
    if all(_is_one({of(value) for value in values}) for of in (digest_of, whole_digest_of)):
        yield f"all {len(seen)} images that were read are the same one."


def _is_one(digests: set[bytes | None]) -> bool:
    return len(digests) == 1 and None not in digests


def _masks(source: ImageSource) -> Iterator[str]:
    """A warning if the names of some files, or of folders among others, are those of masks."""
    import pyarrow
    from datasets import Dataset
    from pyarrow.compute import match_substring_regex

    if not isinstance(source.dataset, Dataset):
        return
    column = source.dataset.data.column(source.image_column).slice(0, _MOST_NAMES).combine_chunks()
    if not pyarrow.types.is_struct(column.type) or column.type.get_field_index("path") < 0:
        return
    names = column.field("path").drop_null()
    found = names.filter(match_substring_regex(names, _MASKS, ignore_case=True))
    if 0 < len(found) < len(names):
        example = Path(found[0].as_py())
        yield (
            f"{len(found):,} of {len(names):,} images look like masks by their names ({example.name!r} in "
            f"{example.parent.name!r}): masks among images are trained on too; move them out of the folder."
        )


def _warning_of_contrast(seen: list[_Seen], pixel_range: PixelRange | None) -> Iterator[str]:
    """Warn if all images are nearly of one grey, by the values of black and white that their files say."""
    shares = []
    for one in seen:
        black, white = _widest(pixel_range) or _widest(one.pixel_range) or [0, 1]
        shares.append((one.high - one.low) / (white - black))
    if 0 < max(shares) <= 1 / _DARK:
        low, high = min(one.low for one in seen), max(one.high for one in seen)
        yield (
            f"views have little contrast: the values go from {low:g} to {high:g}, a small part of what the files "
            "can hold; set `pixel_range: [low, high]` to the values of black and white."
        )


def _widest(pixel_range: PixelRange | None) -> list[float] | None:
    """The pair that holds those of all channels."""
    pairs = ranges_of(pixel_range)
    return [min(low for low, _ in pairs), max(high for _, high in pairs)] if pairs else None
