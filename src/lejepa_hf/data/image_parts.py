"""The files of a folder -> its images: slices, frames, pages and windows have a row each."""

import logging
import os
from collections.abc import Collection
from functools import lru_cache

from ..system.progress_bars import progress_bar
from .decoding import DECODING_ERRORS
from .readers.addresses import Part, with_part
from .readers.known_readers import PACKAGES, TIFF_ENDINGS, ending_of, reader_of_parts
from .readers.library import is_installed
from .readers.reader import Cut

logger = logging.getLogger("lejepa_hf")

_REMEMBERED = 200_000  # files; a run lists its images several times


_NEEDED = {"pages": TIFF_ENDINGS, "slice_axis": (".nii", ".nii.gz")}  # endings of files that a setting is for


def refuse_cut(cut: Cut, what: str, endings: Collection[str]) -> None:
    """Refuse settings of `cut` that would be ignored in `what`, whose files have these endings, or need a library."""
    for name, value in cut.given.items():
        needed = _NEEDED.get(name, ())
        if not endings or (needed and not set(needed).intersection(endings)):
            files = f"files that end in {' or '.join(needed)}" if needed else "the files of a folder"
            raise ValueError(f"`{name}` {value!r} is for {files}, and {what} has none: leave it out.")
    has_tiff = bool(set(TIFF_ENDINGS).intersection(endings))
    if cut.window_size is not None and has_tiff and not is_installed(PACKAGES[".svs"]):
        raise ValueError(
            f"`window_size` {cut.window_size} needs `pip install {PACKAGES['.svs']}` for the TIFFs of {what}."
        )


def with_parts(root: str, images: list[str], cut: Cut) -> list[str]:
    """
    Name each image of files that may hold several.

    Args:
        root (`str`): Folder of the files.
        images (`list[str]`): Their paths within it. The headers of those with several images are read.
        cut ([`Cut`]): Which parts of a file are images.

    Returns:
        `list[str]`: Addresses within the folder. A file that cannot be read is one image, which is broken.
    """
    opened = [image for image in images if reader_of_parts(ending_of(image), cut) is not None]
    bar = progress_bar(opened, desc="reading headers", unit=" files")
    found = {image: _parts(root, image, cut) for image in bar}
    small = [image for image, parts in found.items() if not parts]
    if small:
        left_out = f"{len(small):,} of {len(images):,} images are smaller than `window_size` {cut.window_size}"
        if len(small) == len(images):
            raise ValueError(f"`dataset` {root!r}: {left_out}, {small[0]!r} for example: choose smaller windows.")
        logger.warning(f"{root}: {left_out} and are left out, {small[0]!r} for example")
    return [address for image in images for address in found.get(image, [image])]


def _parts(root: str, image: str, cut: Cut) -> list[str]:
    try:
        status = os.stat(os.path.join(root, image))
        return _parts_of(root, image, cut, status.st_mtime_ns, status.st_size)
    except DECODING_ERRORS:  # reading the first window says why
        size = cut.window_size
        return [image if size is None else with_part(image, Part("window", (0, 0, size, size)))]


@lru_cache(_REMEMBERED)
def _parts_of(root: str, image: str, cut: Cut, time: int, size: int) -> list[str]:  # noqa: ARG001, they name a version
    reader = reader_of_parts(ending_of(image), cut)
    assert reader is not None, "only such files are opened"
    return [with_part(image, part) for part in reader.parts(os.path.join(root, image), cut)]
