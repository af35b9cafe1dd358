"""A folder of images -> a dataset of their paths; no image is opened."""

import logging
import os
from collections import Counter
from typing import NoReturn

from PIL import Image

from .dataset_files import as_stream, kind_of_files, parts_of_split
from .dataset_kinds import Opened
from .pixel_arrays import NPY_ENDING

logger = logging.getLogger("lejepa_hf")

_SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_UNDECODABLE = ("BUFR", "GRIB", "HDF5", "MPEG")  # PIL recognises them, but has no decoder


def open_folder(name: str, split: str, streaming: bool) -> Opened:
    """
    Open a folder of images, nested or flat, in any format PIL reads or as `.npy` arrays, without hidden files and
    folders. A folder of Parquet or tar files is opened like a dataset repository of the Hub instead.

    Folders called train, val or test (or as in `_SPLIT_FOLDERS`) are splits, if there are at least two of them or
    nothing else; without such folders everything is `train`. If all images lie equally deep, the name of the folder
    right above an image is its label.

    The imagefolder of `datasets` is not used: it assigns every file whose name contains train or test to that split,
    silently leaves out the others, and visits each file several times.
    """
    images, others = _list_images(name)
    if not images and any(kind_of_files(ending) for ending in others):
        from .dataset_builders import load_split

        return load_split(name, name, split, streaming)
    splits = _splits(name, images, others)
    parts = parts_of_split(name, split, {key: len(images) for key, images in splits.items()})
    images = [image for part in parts for image in splits[part.splitname][part.from_ : part.to]]
    return as_stream(_dataset(os.path.abspath(name), images, _classes(splits)), streaming)


def _splits(name: str, images: list[str], others: Counter) -> dict[str, list[str]]:
    """The images of each split, as paths within the folder."""
    if not images:
        found = ", ".join(f"{count} {kind}" for kind, count in sorted(others.items())) or "nothing"
        raise ValueError(f"`dataset` {name!r} holds no images: found {found}.")
    folders = {image.split(os.sep, 1)[0] for image in images if os.sep in image}
    split_of = {folder: key for key, known in _SPLIT_FOLDERS.items() for folder in folders if folder.lower() in known}
    # One such folder among others is a class: of trains, say.
    if len(set(split_of.values())) < 2 and not all(image.split(os.sep, 1)[0] in split_of for image in images):
        return {"train": images}
    splits: dict[str, list[str]] = {key: [] for key in _SPLIT_FOLDERS if key in split_of.values()}
    for image in images:
        folder = image.split(os.sep, 1)[0]
        if folder in split_of:
            splits[split_of[folder]].append(image)
    left_out = len(images) - sum(map(len, splits.values()))
    if left_out:
        beside = ", ".join(sorted(folders - split_of.keys())[:8]) or "directly in the folder"
        logger.warning(f"{name}: {left_out} images beside the splits {', '.join(splits)} are left out ({beside})")
    return splits


def _list_images(name: str) -> tuple[list[str], Counter]:
    """Paths of the images within the folder, sorted, and how many other files there are of each kind."""
    Image.init()
    endings = {end for end, kind in Image.EXTENSION.items() if kind in Image.OPEN and kind not in _UNDECODABLE}
    endings.add(NPY_ENDING)
    images: list[str] = []
    others: Counter = Counter()

    def refuse(error: OSError) -> NoReturn:
        raise ValueError(f"`dataset` {name!r} cannot be listed: {error}") from error

    for folder, subfolders, files in os.walk(name, onerror=refuse, followlinks=True):
        subfolders[:] = [sub for sub in subfolders if not sub.startswith(".") and not _leads_up(folder, sub)]
        inside = os.path.relpath(folder, name)
        for file in files:
            ending = os.path.splitext(file)[1].lower()
            if ending not in endings:
                others[ending or "no ending"] += 1
            elif not file.startswith("."):
                images.append(file if inside == "." else os.path.join(inside, file))
    return sorted(images), others


def _leads_up(folder: str, sub: str) -> bool:
    """Whether a subfolder is a link to a folder that contains it, which would be followed for ever."""
    path = os.path.join(folder, sub)
    return os.path.islink(path) and f"{os.path.realpath(folder)}/".startswith(f"{os.path.realpath(path)}/")


def _classes(splits: dict[str, list[str]]) -> list[str] | None:
    """Names of the classes, if the images are in a folder for each class."""
    images = [image for part in splits.values() for image in part]
    depths = {image.count(os.sep) for image in images}
    names = sorted({_folder_above(image) for image in images})
    told = len(depths) == 1 and depths.pop() > (len(splits) > 1)  # else the folder above is the split's own
    return names if told and len(names) > 1 else None


def _folder_above(image: str) -> str:
    return os.path.basename(os.path.dirname(image))


def _dataset(root: str, images: list[str], classes: list[str] | None) -> Opened:
    from datasets import ClassLabel, Dataset, Features
    from datasets import Image as ImageFeature

    columns: dict[str, list] = {"image": [os.path.join(root, image) for image in images]}
    features = Features({"image": ImageFeature(decode=False)})
    if classes is not None:
        number = {name: place for place, name in enumerate(classes)}
        columns["label"] = [number[_folder_above(image)] for image in images]
        features["label"] = ClassLabel(names=classes)
    return Dataset.from_dict(columns, features=features)
