"""Arrays in a container: NumPy's `.npz`, HDF5 and zarr; each row of an array is an image."""

import hashlib
import logging
import os
import shutil
import tempfile
import zipfile
from abc import abstractmethod
from collections.abc import Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..decoding import check_size
from .addresses import Part
from .library import library_for
from .reader import Reader, Values

logger = logging.getLogger("lejepa_hf")

_OPENED = 128  # files that a process keeps open
_ROOT = "array"  # name of an array that is a zarr folder of its own


class Stored(Protocol):
    """An array in a file, of which parts can be read."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""

    @property
    def dtype(self) -> Any:  # noqa: ANN401, a dtype of NumPy
        """Type of the values."""

    def __getitem__(self, key: Any, /) -> Any: ...  # noqa: ANN401, an index


class ArrayReader(Reader):
    """Reads the rows of arrays. Files are opened once in each process, and closed when many others were."""

    def arrays(self, file: str) -> Mapping[str, Stored]:
        """The arrays by name, those within groups as `group/name`."""
        with library_for(self.format, self.packages):
            status = os.stat(file)
            # Not in the process that was forked: the libraries lock files, and have threads.
            return _opened(self, file, status.st_mtime_ns, status.st_size, os.getpid())

    def values(self, file: str | bytes, part: Part | None, max_image_pixels: int | None) -> Values:
        """One row."""
        if part is None or isinstance(file, bytes):
            raise ValueError(f"The {self.format} holds arrays of images: name it as `dataset`.")
        arrays, row = self.arrays(file), part.numbers[0]
        if part.name not in arrays or row >= arrays[part.name].shape[0]:
            raise ValueError(f"The {self.format} has no row {row} of an array {part.name!r}.")
        array = arrays[part.name]
        check_size(array.shape[2], array.shape[1], max_image_pixels)
        with library_for(self.format, self.packages):
            return Values(np.asarray(array[row]))

    @abstractmethod
    def open(self, file: str) -> Mapping[str, Stored]:
        """[`arrays`] of a file that is not open yet."""


@lru_cache(_OPENED)
def _opened(reader: ArrayReader, file: str, time: int, size: int, process: int) -> Mapping[str, Stored]:  # noqa: ARG001
    return reader.open(file)


class Hdf5(ArrayReader):
    """Reads HDF5 with h5py."""

    format = "HDF5 file"
    packages = "h5py"

    def open(self, file: str) -> Mapping[str, Stored]:
        """All datasets of numbers or texts, in groups too."""
        import h5py  # type: ignore[import-untyped]

        found: dict[str, Stored] = {}

        def add(name: str, item: object) -> None:
            if isinstance(item, h5py.Dataset):
                is_text = h5py.check_string_dtype(item.dtype) is not None
                found[name] = _Texts(item) if is_text else item

        h5py.File(file, "r").visititems(add)
        return found


class _Texts:
    """Texts of HDF5, which h5py reads as bytes."""

    dtype = np.dtype("U")

    def __init__(self, item: Any) -> None:  # noqa: ANN401
        self.shape, self._item = item.shape, item

    def __getitem__(self, key: Any) -> Any:  # noqa: ANN401
        return self._item.asstr()[key]


class Zarr(ArrayReader):
    """Reads zarr folders, versions 2 and 3, with zarr."""

    format = "zarr folder"
    packages = "zarr"

    def open(self, file: str) -> Mapping[str, Stored]:
        """All arrays, in groups too; one that is the folder itself is called `array`."""
        from zarr import Array
        from zarr import open as open_zarr

        root = open_zarr(file, mode="r")
        if isinstance(root, Array):
            return {_ROOT: root}
        return {name: item for name, item in root.members(max_depth=None) if isinstance(item, Array)}


class Npz(ArrayReader):
    """
    Reads what `np.savez` and `np.savez_compressed` wrote. An array is decompressed once, into the cache of `datasets`,
    where all processes map it into their memory.
    """

    format = "npz file"
    packages = "numpy"

    def open(self, file: str) -> Mapping[str, Stored]:
        """The arrays; pickled ones are refused."""
        with zipfile.ZipFile(file) as archive:
            return {
                member.removesuffix(".npy"): _Member(file, member, *_header(archive, member))
                for member in archive.namelist()
            }


def _header(archive: zipfile.ZipFile, member: str) -> tuple[tuple[int, ...], np.dtype]:
    with archive.open(member) as stored:
        version = np.lib.format.read_magic(stored)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stored)
    if dtype.hasobject:
        raise ValueError(
            f"The array {member.removesuffix('.npy')!r} holds Python objects, which are pickles and could run code: "
            "save it as numbers or texts, or save the file without it."
        )
    return shape, dtype


class _Member:
    """An array in an npz file, decompressed when it is first read."""

    def __init__(self, file: str, member: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self.shape, self.dtype, self._file, self._member = shape, dtype, file, member

    def __getitem__(self, key: Any) -> Any:  # noqa: ANN401
        return self._mapped[key]

    @cached_property
    def _mapped(self) -> np.ndarray:
        return np.load(_decompressed(self._file, self._member), mmap_mode="r", allow_pickle=False)


def _decompressed(file: str, member: str) -> Path:
    """The array as a `.npy` file, written if it is not there yet; another version of the file gets another name."""
    from datasets import config

    status = os.stat(file)
    version = f"{os.path.realpath(file)} {status.st_mtime_ns} {status.st_size} {member}"
    folder = Path(config.HF_DATASETS_CACHE) / "lejepa_hf_arrays"
    path = folder / f"{hashlib.blake2b(version.encode(), digest_size=16).hexdigest()}.npy"
    if path.exists():
        return path
    logger.info(f"{file}: {member.removesuffix('.npy')} is decompressed into {path}")
    folder.mkdir(parents=True, exist_ok=True)
    # In a folder of its own, which goes away if the disk is full; several processes may do the same.
    with tempfile.TemporaryDirectory(dir=folder) as own, zipfile.ZipFile(file) as archive:
        unfinished = Path(own) / path.name
        with archive.open(member) as stored, open(unfinished, "wb") as written:
            shutil.copyfileobj(stored, written, 1 << 20)
        os.replace(unfinished, path)
    return path
