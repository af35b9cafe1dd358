"""The files of a folder -> its images: slices, frames, pages and windows have a row each."""

import os
from collections.abc import Collection
from functools import lru_cache

from ..system.progress_bars import progress_bar
from .decoding import DECODING_ERRORS
from .readers.addresses import with_part
from .readers.known_readers import ending_of, reader_of_parts
from .readers.reader import Cut

_REMEMBERED = 200_000  # files; a run lists its images several times


_NEEDED = {"pages": (".tif", ".tiff"), "slice_axis": (".nii", ".nii.gz")}  # endings of files that a setting is for


def refuse_cut(cut: Cut, what: str, endings: Collection[str]) -> None:
    """Refuse settings of `cut` that would be ignored in `what`, whose files have these endings."""
    for name, value in cut.given.items():
        needed = _NEEDED.get(name, ())
        if not endings or (needed and not set(needed).intersection(endings)):
            files = f"files that end in {' or '.join(needed)}" if needed else "the files of a folder"
            raise ValueError(f"`{name}` {value!r} is for {files}, and {what} has none: leave it out.")


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
    return [address for image in images for address in found.get(image, [image])]


def _parts(root: str, image: str, cut: Cut) -> list[str]:
    try:
        status = os.stat(os.path.join(root, image))
        return _parts_of(root, image, cut, status.st_mtime_ns, status.st_size)
    except DECODING_ERRORS:
        return [image]


@lru_cache(_REMEMBERED)
def _parts_of(root: str, image: str, cut: Cut, time: int, size: int) -> list[str]:  # noqa: ARG001, they name a version
    reader = reader_of_parts(ending_of(image), cut)
    assert reader is not None, "only such files are opened"
    return [with_part(image, part) for part in reader.parts(os.path.join(root, image), cut)]
