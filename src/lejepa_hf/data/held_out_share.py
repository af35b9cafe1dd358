"""A share of the images of a source is held out: by hashes, stratified by labels, no group on both sides."""

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from .dataset_files import folder_of, with_length
from .image_contents import digest_of
from .image_source import ImageSource
from .readers.addresses import file_of_part
from .row_groups import check_group_column, column_values, groups_of, path_within, row_names

logger = logging.getLogger("lejepa_hf")

_LARGEST = 50  # percent
_FEWEST = 2  # images that an evaluation needs


def share_of(split: str | None) -> float | None:
    """
    The share of the images, in (0, 0.5], that a value of `eval_split` such as `"10%"` stands for. None for the name of
    a split, slices included, and for None. ValueError for a number or a percentage that is no such share.
    """
    text = "" if split is None or "[" in split else split.replace(" ", "")
    if "%" not in text and not re.fullmatch(r"[-+]?[0-9.]+", text):
        return None
    number = re.fullmatch(r"([0-9]+\.?[0-9]*|\.[0-9]+)%", text)
    if number is None or not 0 < float(number[1]) <= _LARGEST:
        raise ValueError(
            f"`eval_split` {split!r} is neither a split nor a share: write a share of the training images as '10%', "
            f"more than 0% and at most {_LARGEST}%, or name a split."
        )
    return float(number[1]) / 100


def split_off(source: ImageSource, split: str, group_column: str | None = None) -> tuple[ImageSource, ImageSource]:
    """
    Split a source into images to train on and held-out ones, which never depend on a seed.

    The images with the smallest hashes are held out: of the paths of files within their folder, of the numbers of
    other rows. With class numbers each class gives the same share, as far as its images allow, and keeps at least one
    for training. With `group_column` the groups are hashed, and each one stands on one side as a whole; a group of
    images of several classes counts as one of its most frequent class. A stream is split row by row while it is read,
    by a hash of the group or of the image itself, so that sizes and classes are about right. The numbers of images
    are logged once.

    Args:
        source ([`ImageSource`]): Images; not a mixture.
        split (`str`): Their share that is held out, as `"10%"`; see [`share_of`].
        group_column (`str`, *optional*): Column whose values are the groups, such as patients. For a folder of images
            also a level of its folders: `"1"` for the first one below the folder, `"-1"` for the one right above an
            image; folders of one name are one group.

    Returns:
        `tuple` of [`ImageSource`]: Images to train on, held-out images. Without labels, if each class is one group.

    Raises:
        ValueError: If there is no such column, a row has no group, or fewer than two images would be held out.
    """
    share = share_of(split)
    assert share is not None, "the name of a split has no share"
    if source.is_stream:
        return _filtered(source, share, group_column)
    groups = row_names(source)
    if group_column is not None:
        groups = groups_of(source, group_column, groups)
        source = _without_labels_of_groups(source, groups)
    classes = _classes_of(source)
    chosen = choose_rows(groups, share, classes)
    by_group = f", by {len(set(groups)):,} groups of `group_column` {group_column!r}" if group_column else ""
    number, left = int(chosen.sum()), int((~chosen).sum())
    if number < _FEWEST and group_column is None and len(set(groups)) == 1 < len(groups):
        raise ValueError(
            f"`eval_split` {split!r} cannot part the {len(groups):,} images of {source.name!r}: they are of one file, "
            "which stands on one side as a whole. Add other files, or name a split."
        )
    if number < _FEWEST:
        raise ValueError(
            f"`eval_split` {split!r} holds out {number} of the {len(chosen):,} images of {source.name!r}{by_group}: "
            f"at least {_FEWEST} are needed, and each class keeps one to train on. Write a larger share, or name a "
            "split."
        )
    by_class = f", about the same share of each of {len(set(classes)):,} classes" if classes else ""
    _log_once(
        f"{source.name}: {number:,} of {len(chosen):,} images ({100 * number / len(chosen):.1f} %) are held out"
        f"{by_group}{by_class}; {left:,} are left to train on"
    )
    dataset: Any = source.dataset
    return _sides(source, share, *(dataset.select(np.flatnonzero(rows)) for rows in (~chosen, chosen)))


def choose_rows(groups: Sequence[str], share: float, classes: Sequence[int] | None = None) -> np.ndarray:
    """
    A truth value for each row, whether it is held out, from the name of its group and its class. The order of the rows
    does not matter, nor anything else than these names.
    """
    of_group: dict[str, list[int]] = {}
    for group, label in zip(groups, classes or [0] * len(groups), strict=True):
        of_group.setdefault(group, []).append(label)
    strata: dict[int, list[str]] = {}
    for group, labels in of_group.items():
        strata.setdefault(_main_class(labels), []).append(group)
    left = Counter(label for labels in of_group.values() for label in labels)
    chosen, missing = set[str](), 0.0
    for label in sorted(strata, key=lambda label: _hash(f"class {label}")):
        own, taken = sorted(strata[label], key=_hash), 0
        target = missing + share * sum(len(of_group[group]) for group in own)
        for group in own:
            size = len(of_group[group])
            if abs(taken + size - target) < abs(taken - target) and _leaves_each_class(left, of_group[group]):
                chosen.add(group)
                left.subtract(of_group[group])
                taken += size
        if len(own) > 1:  # the next class makes up for what was rounded
            missing = target - taken
    return np.array([group in chosen for group in groups], dtype=bool)


def fold_of_rows(source: ImageSource, number: int, group_column: str | None = None) -> np.ndarray:
    """
    The fold of each row of a map-style source, from 0 to `number` - 1: as [`split_off`], with another share of those
    that are left for each fold.
    """
    groups = row_names(source) if group_column is None else groups_of(source, group_column)
    classes = _classes_of(source) or [0] * len(groups)
    folds, left = np.full(len(groups), number - 1), np.arange(len(groups))
    for fold in range(number - 1):
        chosen = choose_rows([groups[row] for row in left], 1 / (number - fold), [classes[row] for row in left])
        folds[left[chosen]] = fold
        left = left[~chosen]
    return folds


def _main_class(labels: list[int]) -> int:
    """The most frequent class of a group, of several the first one."""
    if len(labels) == 1:
        return labels[0]
    counts = Counter(labels)
    return min(counts, key=lambda label: (-counts[label], label))


def _leaves_each_class(left: Counter[int], labels: list[int]) -> bool:
    """Whether an image of each of these classes is left if a group with these labels is taken."""
    return all(left[label] > number for label, number in Counter(labels).items())


def _classes_of(source: ImageSource) -> list[int] | None:
    """Class numbers of all rows, -1 where there is none; None without class numbers."""
    from datasets import ClassLabel, Value

    if source.label_column is None:
        return None
    feature = source.features.get(source.label_column)
    if not (isinstance(feature, ClassLabel | Value) and feature.dtype.startswith(("int", "uint"))):
        return None
    return [-1 if label is None else label for label in column_values(source, source.label_column)]


def _without_labels_of_groups(source: ImageSource, groups: Sequence[str]) -> ImageSource:
    """The source without labels, if each class is one group: held-out classes would all be unknown."""
    classes = _classes_of(source)
    if classes is None or len(set(classes)) == 1 or len(set(zip(groups, classes, strict=True))) > len(set(classes)):
        return source
    _log_once(f"{source.name}: each class in {source.label_column!r} is one group, so that these labels are not used")
    return replace(source, label_column=None, class_names=None)


def _hash(name: str) -> bytes:
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()


def _sides(source: ImageSource, share: float, train: Any, held_out: Any) -> tuple[ImageSource, ImageSource]:  # noqa: ANN401
    shown, split = f"{100 * share:g}%", source.split or "all images"
    return (
        replace(source, dataset=train, split=f"{split} without {shown}", opened=None),
        replace(source, dataset=held_out, split=f"{shown} of {split}", opened=None),
    )


# Streams


@dataclass(frozen=True)
class _OnOneSide:
    """Whether a row of a stream is on a side; workers get it as a copy."""

    image_column: str
    group_column: str | None
    folder: str
    share: float
    is_held_out: bool

    def __call__(self, row: dict[str, Any]) -> bool:
        place = int.from_bytes(_hash(self._name(row)), "big") / 2**64
        return (place < self.share) == self.is_held_out

    def _name(self, row: dict[str, Any]) -> str:
        if self.group_column is not None:
            return str(row[self.group_column])
        value = row[self.image_column]
        if isinstance(value, dict) and value.get("bytes") is None and value.get("path") is not None:
            return file_of_part(path_within(value["path"], self.folder))
        digest = digest_of(value)
        return repr(value) if digest is None else digest.hex()


def _filtered(source: ImageSource, share: float, group_column: str | None) -> tuple[ImageSource, ImageSource]:
    if group_column is not None:
        check_group_column(source, group_column)
    number, sides = source.num_images, list[Any]()
    stream: Any = source.dataset
    for is_held_out in (False, True):
        side = stream.filter(_OnOneSide(source.image_column, group_column, folder_of(source.name), share, is_held_out))
        side.info.splits = None
        if number is not None:
            expected = round(number * share)
            side = with_length(side, expected if is_held_out else number - expected)
        sides.append(side)
    known = "" if number is None else f" ({round(number * share):,} of {number:,})"
    by = "image" if group_column is None else f"group of `group_column` {group_column!r}"
    _log_once(
        f"{source.name}: about {100 * share:g} % of the images{known} are held out while the stream is read, by a "
        f"hash of each {by}"
    )
    return _sides(source, share, *sides)


@cache
def _log_once(message: str) -> None:
    """Log a message the first time: a source is split several times in a run."""
    logger.info(message)
