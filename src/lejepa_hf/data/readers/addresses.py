"""The address of one image in a file of several: `scan.nii.gz#slice=17`, `galaxies.h5#images=41`."""

import os
import re
from typing import NamedTuple

FOLDER_ENDING = ".zarr"  # of containers that are folders
ARRAY_ENDINGS = (".npz", ".h5", ".hdf5", FOLDER_ENDING)
_NUMBERED = r"(?:frame|page|slice|window)=\d+(?:,\d+)*"
_PART_OF_FILE = re.compile(rf"(.+)#((?:{_NUMBERED}&)?{_NUMBERED})", re.DOTALL)
_ROW_OF_ARRAY = re.compile(rf"(.+(?:{'|'.join(map(re.escape, ARRAY_ENDINGS))}))#(.+=\d+)", re.DOTALL | re.IGNORECASE)


class Part(NamedTuple):
    """
    One image of a file: a kind, or the name of an array, with numbers that count from 0. A window may be a part `of`
    another part: `slice=17&window=0,0,256,256`.
    """

    name: str
    numbers: tuple[int, ...]
    of: "Part | None" = None

    def __str__(self) -> str:
        own = f"{self.name}={','.join(map(str, self.numbers))}"
        return own if self.of is None else f"{self.of}&{own}"


def with_part(file: str, part: Part | None) -> str:
    """The address of a part; that of a whole file is its path."""
    return file if part is None else f"{file}#{part}"


def split_address(address: str) -> tuple[str, Part | None]:
    """The file and the part that an address names. A path with `#` that exists is a whole file."""
    if "#" not in address:
        return address, None
    row = _ROW_OF_ARRAY.fullmatch(address)
    found = row or _PART_OF_FILE.fullmatch(address)
    if found is None or os.path.exists(address):
        return address, None
    part = None
    for text in [found[2]] if row else found[2].split("&"):
        name, _, numbers = text.rpartition("=")
        part = Part(name, tuple(map(int, numbers.split(","))), part)
    return found[1], part


def file_of_part(address: str) -> str:
    """
    The file of a slice, page, frame or window, which belongs together with the others of its file; other paths, and
    the rows of arrays, which are images of their own, as they are. It need not exist.
    """
    found = _PART_OF_FILE.fullmatch(address) if "#" in address else None
    return address if found is None or _ROW_OF_ARRAY.fullmatch(address) else found[1]
