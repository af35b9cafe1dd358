"""A folder of images -> a dataset of their paths; no image is opened."""

import logging
import os
import re
import stat
from collections import Counter, deque
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import TypeAlias

from PIL import Image

from ..system.run_folder import RunFolder
from .dataset_files import SPLIT_NAMES, as_stream, folder_of, kind_of_files, parts_of_split, resolve_files
from .dataset_kinds import Opened
from .folder_metadata import METADATA_ENDINGS, Metadata, read_metadata
from .image_parts import refuse_cut, with_parts
from .pixel_arrays import NPY_ENDING
from .readers.addresses import ARRAY_ENDINGS, FOLDER_ENDING, file_of_part
from .readers.known_readers import DICOM_ENDING, PACKAGES, ending_of, is_dicom, readable_endings, reader_of_parts
from .readers.reader import Cut

logger = logging.getLogger("lejepa_hf")

_WHOLE = Cut()
_UNDECODABLE = ("BUFR", "GRIB", "HDF5", "MPEG")  # PIL recognises them, but has no decoder
# Why an entry is left out, if not because of its ending.
_SPECIAL, _AGAIN = "not a regular file", "listed already by another path"
_NOWHERE, _UNNAMED, _RUN = "with a missing target", "with a name that is not UTF-8", "run folder"

_HEAD = 132  # bytes by which a DICOM file is known
_Identity: TypeAlias = tuple[int, int]  # of a file or folder: device and inode


def open_folder(name: str, split: str, streaming: bool, cut: Cut = _WHOLE) -> Opened:
    """
    Open a folder of images, nested or flat, in any format PIL reads, as `.npy` arrays, or in a format whose reader is
    installed, without hidden files and folders and without folders of runs, whose pictures are no photographs. A
    folder of Parquet or tar files is opened like a dataset repository of the Hub instead. `cut` says which parts of a
    file are images; only files of formats that may hold several are opened.

    Folders called train, val or test (or as in `SPLIT_NAMES`) are splits, if there are at least two of them or
    nothing else; without such folders everything is `train`. If all images lie equally deep, the name of the folder
    right above an image is its label. Further columns, and splits in a column `split`, come from a `metadata.csv` (or
    .jsonl, .parquet) in it, see [`~data.folder_metadata.read_metadata`].

    The imagefolder of `datasets` is not used: it assigns every file whose name contains train or test to that split,
    silently leaves out the others, and visits each file several times.
    """
    if _printable(os.path.abspath(name)) != os.path.abspath(name):
        raise ValueError(f"`dataset` {name!r}: the path of the folder is not UTF-8; rename it.")
    found = _list_images(name)
    _report_left_out(name, found)
    shards = [ending for ending in found.others if kind_of_files(ending) in ("parquet", "webdataset")]
    if not found.images and not found.others[_SPECIAL] and shards:
        refuse_cut(cut, f"`dataset` {name!r}, a folder of tables or tars", ())
        from .dataset_builders import load_split

        return load_split(name, name, split, streaming)
    metadata = read_metadata(name, found.images) if found.has_metadata else None
    return _open_listed(name, found, metadata, split, streaming, cut)


def open_files_of_images(pattern: str, split: str, streaming: bool, cut: Cut = _WHOLE) -> Opened:
    """
    Open the files that a glob stands for, or a single file of several images, like those of a folder, which is the one
    above the first star: see [`open_folder`].
    """
    root = folder_of(pattern)
    found = _Listing(root)
    for file in resolve_files(pattern):
        found.take(os.path.relpath(file, root), os.path.basename(file), True, _identity(os.stat(file)))
    found.images.sort()
    _report_left_out(pattern, found)
    return _open_listed(pattern, found, read_metadata(root, found.images), split, streaming, cut)


def _open_listed(
    name: str, found: "_Listing", metadata: Metadata | None, split: str, streaming: bool, cut: Cut
) -> Opened:
    """Open a split of the images that were found."""
    if not found.images:
        raise _nothing_found(name, found)
    root, splits = found.root, _splits(name, found.images)
    refuse_cut(cut, f"`dataset` {name!r}", found.endings)
    if cut.window_size is not None and found.unnamed_dicom is not None:
        raise ValueError(
            f"`window_size` {cut.window_size}: {found.unnamed_dicom} in {root!r} is a DICOM file without its ending: "
            f"give such files the ending {DICOM_ENDING}."
        )
    classes = _classes(splits)
    if metadata is not None:
        splits = metadata.splits(splits)
    if any(reader_of_parts(ending, cut) for ending in found.endings):
        wanted = set(re.findall(r"(?:^|\+)(\w+)", split))
        splits = {key: with_parts(root, files, cut) if key in wanted else files for key, files in splits.items()}
    parts = parts_of_split(name, split, {key: len(images) for key, images in splits.items()})
    images = [image for part in parts for image in splits[part.splitname][part.from_ : part.to]]
    dataset = _dataset(os.path.abspath(root), images, classes)
    if metadata is not None:
        dataset = metadata.added_to(dataset, [file_of_part(image) for image in images])
    return as_stream(dataset, streaming)


def _nothing_found(name: str, found: "_Listing") -> ValueError:
    """The error for a folder or glob without images, with what it holds and the way out."""
    counted = ", ".join(f"{count} {kind}" for kind, count in sorted(found.others.items())) or "nothing"
    text = f"`dataset` {name!r} holds no images: found {counted}.{_missing_readers(found.others)}"
    arrays = [ending for ending in sorted(found.others) if ending in ARRAY_ENDINGS]
    if arrays:
        which = f"name one of the {arrays[0]} files, or all of them by a glob, *{arrays[0]}"
        text += f" A container of arrays is a `dataset` of its own: {which}."
    return ValueError(text)


def _is_unnamed_dicom(path: str, ending: str) -> bool:
    """Whether a file without an ending, or with digits for one, as scanners name theirs, begins as DICOM does."""
    if ending.strip(".0123456789"):
        return False
    try:
        with open(path, "rb") as file:
            return is_dicom(file.read(_HEAD))
    except OSError:
        return False


def _splits(name: str, images: list[str]) -> dict[str, list[str]]:
    """The images of each split, as paths within the folder."""
    folders = {image.split(os.sep, 1)[0] for image in images if os.sep in image}
    split_of = {folder: key for key, known in SPLIT_NAMES.items() for folder in folders if folder.lower() in known}
    # One such folder among others is a class: of trains, say.
    if len(set(split_of.values())) < 2 and not all(image.split(os.sep, 1)[0] in split_of for image in images):
        return {"train": images}
    splits: dict[str, list[str]] = {key: [] for key in SPLIT_NAMES if key in split_of.values()}
    for image in images:
        folder = image.split(os.sep, 1)[0]
        if folder in split_of:
            splits[split_of[folder]].append(image)
    left_out = len(images) - sum(map(len, splits.values()))
    if left_out:
        beside = ", ".join(sorted(folders - split_of.keys())[:8]) or "directly in the folder"
        _log_once(
            logging.WARNING, f"{name}: {left_out} images beside the splits {', '.join(splits)} are left out ({beside})"
        )
    return splits


def _missing_readers(others: Counter) -> str:
    """A sentence that says what to install for files that are left out, empty if there are none."""
    missing: dict[str, list[str]] = {}
    for ending in sorted(others.keys() & PACKAGES.keys()):
        missing.setdefault(PACKAGES[ending], []).append(f"{others[ending]} {ending}")
    ways = [f"{', '.join(files)} with `pip install {packages}`" for packages, files in missing.items()]
    return f" These can be read: {'; '.join(ways)}." if ways else ""


def _report_left_out(name: str, found: "_Listing") -> None:
    """One line that counts by ending what is left out beside images; a warning if these may be images, too."""
    if not found.images or not found.others:
        return
    ways_out = _missing_readers(found.others)
    kinds = [f"{count} {kind}{found.examples.get(kind, '')}" for kind, count in sorted(found.others.items())]
    number = found.others.total()
    message = f"{name}: {number} {'entry is' if number == 1 else 'entries are'} left out: {', '.join(kinds)}"
    _log_once(logging.WARNING if ways_out or found.examples else logging.INFO, f"{message}.{ways_out}")


@cache
def _log_once(level: int, message: str) -> None:
    """Log the first time: a folder is listed several times in a run."""
    logger.log(level, message)


def _list_images(name: str) -> "_Listing":
    """
    The images within the folder, sorted.

    Nothing is visited twice: of several ways to a file or folder the one without links is kept, since links are
    followed after everything else, and links in a circle end.
    """
    found = _Listing(name)
    while found.folders or found.links:
        if found.folders:
            found.visit(found.folders.popleft())
        else:
            found.follow(found.links.popleft())
    found.images.sort()
    return found


class _Listing:
    """What is in the folder `root`: images, each once, how many other files of each kind, what is still to visit."""

    def __init__(self, root: str) -> None:
        Image.init()
        readable = {end for end, kind in Image.EXTENSION.items() if kind in Image.OPEN and kind not in _UNDECODABLE}
        self.root, self._readable = root, readable | {NPY_ENDING} | readable_endings()
        self._seen: set[_Identity] = set()
        self.folders, self.links = deque([""]), deque[str]()  # paths within `root`, as all others here
        self.images: list[str] = []
        self.endings: set[str] = set()
        self.others: Counter[str] = Counter()
        self.examples: dict[str, str] = {}  # of the unusual kinds
        self.has_metadata = False
        self.unnamed_dicom: str | None = None  # the first one whose ending does not say so

    def visit(self, folder: str) -> None:
        """Take the images in a folder that was not visited yet."""
        try:
            status = os.stat(os.path.join(self.root, folder))
            with os.scandir(os.path.join(self.root, folder)) as opened:
                entries = sorted(opened, key=attrgetter("name"))
        except OSError as error:
            raise ValueError(f"`dataset` {self.root!r} cannot be listed: {error}") from error
        if not self._is_first(_identity(status)):
            self._leave_out(_AGAIN, folder)
            return
        if folder and RunFolder(os.path.join(self.root, folder)).is_begun():
            self._leave_out(_RUN, folder)
            return
        # A listing holds the inodes already, which saves a `stat` of each file; some file systems list different ones.
        is_listed: bool | None = None
        folder = os.path.join(folder, "")
        for entry in entries:
            within = folder + entry.name
            if entry.is_symlink():
                self.links.append(within)
            elif entry.is_dir():
                if entry.name.lower().endswith(FOLDER_ENDING):
                    self.others[FOLDER_ENDING] += 1
                elif not entry.name.startswith("."):
                    self.folders.append(within)
            else:
                identity = status.st_dev, entry.inode()
                if is_listed is None:
                    is_listed = identity == _identity_of(entry)
                self.take(within, entry.name, entry.is_file(), identity if is_listed else _identity_of(entry))

    def follow(self, link: str) -> None:
        """Take the file, or note the folder, to which a link leads."""
        path, file = os.path.join(self.root, link), os.path.basename(link)
        try:
            status = os.stat(path)
        except OSError:  # or it leads to itself
            self.take(link, file, None, (0, 0))
            return
        if not stat.S_ISDIR(status.st_mode):
            self.take(link, file, stat.S_ISREG(status.st_mode), _identity(status))
        elif Path(path).parent.resolve().is_relative_to(Path(path).resolve()):  # upwards, and so out of the folder
            self._leave_out(_AGAIN, link)
        elif not file.startswith("."):
            self.folders.append(link)

    def take(self, within: str, file: str, is_regular: bool | None, identity: _Identity) -> None:
        """Take an image that was not taken yet, or count another file; `is_regular` is None for a missing one."""
        ending = os.path.splitext(file)[1].lower()
        if ending == ".gz":
            ending = ending_of(file)
        elif is_regular and _is_unnamed_dicom(os.path.join(self.root, within), ending):
            ending, self.unnamed_dicom = DICOM_ENDING, self.unnamed_dicom or within
        if is_regular and ending not in self._readable:
            if ending in METADATA_ENDINGS and os.path.splitext(file)[0] == "metadata":
                self.has_metadata = True
                return
            self.others[_printable(ending) or "no ending"] += 1
        elif file.startswith("."):
            return
        elif not is_regular:
            self._leave_out(_NOWHERE if is_regular is None else _SPECIAL, within)
        elif not within.isascii() and _printable(within) != within:  # texts of Arrow are UTF-8
            self._leave_out(_UNNAMED, within)
        elif self._is_first(identity):
            self.images.append(within)
            self.endings.add(ending)
        else:
            self._leave_out(_AGAIN, within)

    def _leave_out(self, kind: str, within: str) -> None:
        self.others[kind] += 1
        self.examples.setdefault(kind, f" ({_printable(within)!r})")

    def _is_first(self, identity: _Identity) -> bool:
        before = len(self._seen)
        self._seen.add(identity)
        return len(self._seen) > before or not identity[1]  # a file system without inodes has zeros


def _identity(status: os.stat_result) -> _Identity:
    return status.st_dev, status.st_ino


def _identity_of(entry: os.DirEntry[str]) -> _Identity:
    try:
        return _identity(entry.stat())
    except OSError:  # the file is gone since
        return 0, 0


def _printable(name: str) -> str:
    """A name from the file system, with escapes for what is not UTF-8 in it."""
    return name.encode("utf-8", "backslashreplace").decode()


def _classes(splits: dict[str, list[str]]) -> list[str] | None:
    """Names of the classes, if the images are in a folder for each class."""
    images = [image for part in splits.values() for image in part]
    depths = {image.count(os.sep) for image in images}
    names = sorted({os.path.basename(os.path.dirname(image)) for image in images})
    told = len(depths) == 1 and depths.pop() > (len(splits) > 1)  # else the folder above is the split's own
    return names if told and len(names) > 1 else None


def _dataset(root: str, images: list[str], classes: list[str] | None) -> Opened:
    from datasets import ClassLabel, Dataset, Features
    from datasets import Image as ImageFeature

    root = os.path.join(root, "")
    columns: dict[str, list] = {"image": [root + image for image in images]}
    features = Features({"image": ImageFeature(decode=False)})
    if classes is not None:
        number = {name: place for place, name in enumerate(classes)}
        columns["label"] = [number[os.path.basename(os.path.dirname(image))] for image in images]
        features["label"] = ClassLabel(names=classes)
    return Dataset.from_dict(columns, features=features)
