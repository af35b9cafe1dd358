"""The readers by the endings of file names."""

import pkgutil
from functools import cache
from typing import TYPE_CHECKING

from .addresses import ARRAY_ENDINGS, Part
from .library import is_installed

if TYPE_CHECKING:
    from .reader import Cut, Reader

DICOM_ENDING = ".dcm"

# Ending: file in this folder and class. Loaded when first needed.
READERS = {
    DICOM_ENDING: "dicom.Dicom",
    ".nii": "nifti.Nifti",
    ".nii.gz": "nifti.Nifti",
    ".npz": "arrays.Npz",
    ".h5": "arrays.Hdf5",
    ".hdf5": "arrays.Hdf5",
    ".zarr": "arrays.Zarr",
}
_PARTS = {"page": "tiff.TiffPage", "window": "windows.Windows"}  # of files that PIL reads as a whole
TIFF_ENDINGS = (".tif", ".tiff", ".svs")
# Ending of further files that a folder may hold: what `pip install` needs to read them.
PACKAGES = {
    DICOM_ENDING: "pydicom",
    ".nii": "nibabel",
    ".nii.gz": "nibabel",
    ".svs": "tifffile imagecodecs",
    ".heic": "pillow-heif",
    ".heif": "pillow-heif",
}
FITS_ENDINGS = (".fit", ".fits")
_DICOM_MAGIC = (128, b"DICM")  # where it stands, and what


def ending_of(name: str) -> str:
    """The ending of a file name in lower case, that of a compressed volume as a whole."""
    name = name.lower()
    ending = name[name.rfind(".") :] if "." in name else ""
    return ".nii.gz" if ending == ".gz" and name.endswith(".nii.gz") else ending


def readable_endings() -> set[str]:
    """Endings of the files of a folder whose readers are installed."""
    return {ending for ending, packages in PACKAGES.items() if is_installed(packages)}


def reader_of_parts(ending: str, cut: "Cut") -> "Reader | None":
    """The reader that knows how many images a file with this ending is; None if it is one, without opening it."""
    if cut.window_size is not None:
        return _load(_PARTS["window"])
    name = _PARTS["page"] if cut.pages == "images" and ending in TIFF_ENDINGS else READERS.get(ending)
    return None if name is None else _load(name)


def find_reader(file: str | bytes, part: Part | None = None) -> "Reader | None":
    """The reader of a file, or of a part of it; None for files that PIL and NumPy read."""
    if isinstance(file, bytes):  # a single image
        return dicom_reader() if is_dicom(file) else None
    ending = ending_of(file)
    name = READERS.get(ending)
    if part is not None and ending not in ARRAY_ENDINGS:
        name = _PARTS.get(part.name, name)
    return None if name is None else _load(name)


def is_dicom(content: bytes) -> bool:
    """Whether the beginning of a file is that of a DICOM file."""
    place, magic = _DICOM_MAGIC
    return content[place : place + len(magic)] == magic


def dicom_reader() -> "Reader":
    """The reader of DICOM files, whatever they are called."""
    return _load(READERS[DICOM_ENDING])


@cache
def _load(name: str) -> "Reader":
    return pkgutil.resolve_name(f"{__package__}.{name}")()
