"""The two sources of an evaluation, images that fit and images that measure, and their labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from ..data.array_columns import is_array
from ..data.dataset_kinds import has_gaps
from ..data.held_out_share import share_of, split_off
from ..data.image_source import ImageSource, is_image
from ..data.label_columns import with_labels_only
from ..data.label_kinds import POSSIBLE_LABELS, described, is_numbered
from ..data.labelled_source import open_labelled
from ..data.origins import rows_in_common
from ..data.row_groups import column_values
from ..data.shared_images import SharedImages, shared_images
from ..system.distributed import is_first_rank
from .dataset_presets import DatasetPreset, find_preset
from .embeddings.label_arrays import label_array
from .imagenet_classes import NUM_CLASSES, with_imagenet_classes

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict, IterableDatasetDict


def labelled_sources(
    dataset: str | Path | DatasetDict | IterableDatasetDict,
    train_split: str | None = None,
    eval_split: str | None = None,
    group_column: str | None = None,
    **source: Any,  # noqa: ANN401
) -> tuple[ImageSource, ImageSource]:
    """
    Open both splits of a labelled dataset: the images that have a label. Classes that are texts are numbered by those
    of `train_split`.

    Args:
        dataset: Name of a preset, see [`find_preset`], or anything that [`~data.sources.load_source`] opens.
        train_split (`str`, *optional*): Split to fit the protocols on. If missing, the preset's or `train`.
        eval_split (`str`, *optional*): Split to evaluate on, or a share of `train_split` such as `10%`, see
            [`~data.held_out_share.split_off`]. If missing, the preset's or `test`.
        group_column (`str`, *optional*): Column, or level of folders, of groups that a share may not part.
        **source: Arguments of [`~data.labelled_source.open_labelled`]: `config`, `image_column`, `label_column`,
            `label_kind` and so on.
    """
    share = share_of(eval_split)
    if group_column is not None and share is None:
        raise ValueError(
            f"`group_column` {group_column!r} chooses the images of a share: set `eval_split`, which is "
            f"{eval_split!r}, to '10%' for example, or leave it out."
        )
    preset, dataset, source = _of_preset(dataset, source)
    if preset.fitted_on is not None:
        return _fitted_elsewhere(preset, train_split, eval_split, source)
    train = open_labelled(dataset, train_split or preset.train_split, **source)
    if share is not None and eval_split is not None:
        train, test = split_off(train, eval_split, group_column)
    else:
        test = open_labelled(dataset, eval_split or preset.eval_split, known=train, **source)
    return with_labels_only(train), with_labels_only(test)


def labelled_source(
    dataset: str | Path | DatasetDict | IterableDatasetDict,
    split: str | None = None,
    **source: Any,  # noqa: ANN401
) -> ImageSource:
    """Open one split of a labelled dataset, as [`labelled_sources`] opens the images to fit protocols on."""
    preset, dataset, source = _of_preset(dataset, source)
    if preset.fitted_on is not None:
        raise ValueError(
            f"`dataset` {preset.dataset!r} only measures protocols that are fitted on {preset.fitted_on}: leave "
            "`folds` out."
        )
    return with_labels_only(open_labelled(dataset, split or preset.train_split, **source))


def _fitted_elsewhere(
    preset: DatasetPreset, train_split: str | None, eval_split: str | None, source: dict[str, Any]
) -> tuple[ImageSource, ImageSource]:
    """Training images of the preset that it is fitted on, and its own images with the same class numbers."""
    if share_of(eval_split) is not None:
        raise ValueError(
            f"`eval_split` {eval_split!r} is a share of `train_split`, but {preset.dataset!r} measures protocols that "
            f"are fitted on {preset.fitted_on}: leave it out, or evaluate on {preset.fitted_on}."
        )
    both = {name: source[name] for name in ("streaming", "max_image_pixels") if name in source}
    train = labelled_source(str(preset.fitted_on), train_split, **both)
    numbered = replace(train, class_names=None)  # integers are its class numbers, some of which may be missing
    test = open_labelled(preset.dataset, eval_split or preset.eval_split, known=numbered, **source)
    test = with_imagenet_classes(test) if preset.has_wordnet_ids else test
    if train.class_names is not None and len(train.class_names) != NUM_CLASSES:
        raise ValueError(
            f"`dataset` {train.name!r} has {len(train.class_names)} classes, not ImageNet's {NUM_CLASSES:,}."
        )
    return train, replace(test, class_names=train.class_names)


def _of_preset(
    dataset: str | Path | DatasetDict | IterableDatasetDict, source: dict[str, Any]
) -> tuple[DatasetPreset, Any, dict[str, Any]]:
    """The preset of this name, an empty one for other datasets; what to open, and with which settings."""
    preset = find_preset(dataset) if isinstance(dataset, str) else None
    if preset is None:
        return DatasetPreset(""), dataset, source
    settings = ("config", "image_column", "label_column", "revision", "data_files")
    return preset, preset.dataset, source | {name: source.get(name) or vars(preset)[name] for name in settings}


def check_pair(train: ImageSource, test: ImageSource) -> None:
    """Refuse two sources that have images in common, as far as it is known, or number their classes differently."""
    found = [rows_in_common(one, other) for one in train.origins for other in test.origins]
    common = next((one for one in found if one is not None), None)
    is_same = train.fingerprint is not None and train.fingerprint == test.fingerprint
    if train.dataset is test.dataset or is_same or common is not None:
        raise ValueError(
            f"`dataset` {test.name!r}: protocols would be fitted and evaluated on the same images "
            f"({common or 'all of them'}). Name two splits with `train_split` and `eval_split`, give a `DatasetDict`, "
            "or two sources."
        )
    # Texts that only the test images have come behind those of the others: the same number is the same class.
    if train.class_names and test.class_names and test.class_names[: len(train.class_names)] != train.class_names:
        differing = sorted(set(train.class_names) ^ set(test.class_names)) or ["in another order"]
        raise ValueError(
            f"The classes of {train.name!r} and {test.name!r} differ, so that their numbers mean different "
            f"things ({', '.join(differing[:5])}): give both folders the same classes, or both splits in one folder."
        )


def count_shared(test: ImageSource, *trained_on: ImageSource) -> SharedImages:
    """Count test images that are training images too, by their content, and warn if there are any; in one process."""
    if not is_first_rank():
        return SharedImages(0, 0)
    sources = [(source.dataset, source.image_column) for source in trained_on]
    shared = shared_images(sources, test.dataset, test.image_column)
    shared.warn(test.name)
    return shared


def check_labels(source: ImageSource) -> None:
    """Refuse a source without labels, or with masks; those of a stream are checked only by its features."""
    if source.label_column is None:
        raise ValueError(f"`dataset` {source.name!r} has no labels; set `label_column` or use a labelled dataset.")
    features = source.features
    feature = features.get(source.label_column)
    if is_image(feature):
        raise ValueError(
            f"`label_column` {source.label_column!r} of `dataset` {source.name!r} holds masks: only the protocol "
            "`segmentation` uses them; for others name a column of labels."
        )
    if features and source.label_kind is None:
        others = ", ".join(name for name in features if name not in (source.image_column, source.label_column))
        raise ValueError(
            f"`label_column` {source.label_column!r} of `dataset` {source.name!r} does not hold labels but "
            f"{described(feature)}: {POSSIBLE_LABELS}. Name another column ({others or 'there is none'})."
        )
    is_encoded = is_numbered(feature) or source.label_kind in ("number", "multi-label")
    if is_encoded and not source.is_stream:
        check_label_values(column_values(source, source.label_column), source)


def check_label_values(labels: Sequence[Any], source: ImageSource) -> None:
    """
    Refuse `labels`, all or part of a source's, that no protocol can use: class numbers that are missing or negative,
    numbers that are missing, NaN or infinite, lists of classes where there are no classes.
    """
    if source.label_kind == "multi-label":
        if not source.class_names:
            raise ValueError(f"`dataset` {source.name!r}: {_without_classes(len(labels), source)}.")
    elif source.label_kind == "number":
        if number := int((~np.isfinite(np.asarray(labels, dtype=np.float64))).sum()):
            raise ValueError(
                f"`dataset` {source.name!r}: {number:,} of {len(labels):,} images have no finite number in "
                f"`label_column` {source.label_column!r}: name another column or split, or leave these rows out."
            )
    elif number := sum(label is None or label < 0 for label in labels) if source.has_class_numbers else 0:
        raise ValueError(
            f"`dataset` {source.name!r}: {number:,} of {len(labels):,} images have -1 or nothing as class in "
            f"`label_column` {source.label_column!r}, like test splits with secret labels: name another split, leave "
            "these rows out, or set `label_kind: class` if negative numbers are classes."
        )


def check_classes(train: ImageSource) -> None:
    """Refuse images to fit protocols on that are all of one class; those of a stream are not known yet."""
    labels = labels_of(train) if train.label_kind == "class" else None
    if labels is not None and len(labels) and (labels == labels[0]).all():
        raise ValueError(
            f"`dataset` {train.name!r}: all {len(labels):,} images to fit protocols on are of class {labels[0]} in "
            f"`label_column` {train.label_column!r}, so there is nothing to tell apart: name another column or split. "
            "Training without `eval_split` needs no classes."
        )


def check_held_out_classes(
    train: ImageSource, test: ImageSource, labels: tuple[torch.Tensor, torch.Tensor] | None = None
) -> None:
    """
    Refuse held-out images that no classifier could get right, or wrong: of classes that are not among the images to
    fit protocols on, or all of one class; of lists of classes, if no image to fit protocols on has a class, or no
    class has both held-out images of it and others. `labels` are those of both sources; of streams they are only known
    later.
    """
    if test.label_kind == "number":
        return
    known, found = labels or (labels_of(train), labels_of(test))
    if known is None or found is None or not len(known) or not len(found):
        return
    if test.label_kind == "multi-label":
        of_class = np.asarray(found)
        if not np.asarray(known).any():
            raise ValueError(f"`dataset` {train.name!r}: {_without_classes(len(known), train)}.")
        if not (of_class.any(0) & ~of_class.all(0)).any():
            raise ValueError(
                f"`dataset` {test.name!r}: none of the {of_class.shape[1]} classes has both held-out images of it and "
                f"others among {len(found):,}, so that nothing can be measured: name another split with `eval_split`."
            )
        return
    different = np.unique(np.asarray(found))
    absent = np.setdiff1d(different, np.asarray(known))
    sliced = "[" in f"{train.split}{test.split}"
    way_out = "put images of each class into both, or leave those of the others out"
    if sliced:
        way_out += "; folders are sorted by class, so that a slice like `train[80%:]` has the last classes only"
    if len(absent):
        raise ValueError(
            f"`dataset` {test.name!r}: the held-out images have classes ({_named(absent, test)}) that are not among "
            f"the images to fit protocols on, and would all count as wrong: {way_out}."
        )
    if len(different) == 1:
        raise ValueError(
            f"`dataset` {test.name!r}: all {len(found):,} held-out images are of one class "
            f"({_named(different, test)}), so that an accuracy says nothing: {way_out}."
        )


def _without_classes(number: int, source: ImageSource) -> str:
    return (
        f"none of {number:,} images has a class in `label_column` {source.label_column!r}, so that there is nothing "
        "to tell apart: name another column or split"
    )


def _named(classes: np.ndarray, source: ImageSource) -> str:
    """Names or numbers of the first classes."""
    names = source.class_names or []
    shown = [names[number] if number < len(names) else str(number) for number in classes[:5].tolist()]
    return ", ".join(shown) + (", ..." if len(classes) > 5 else "")


def check_masks(source: ImageSource) -> None:
    """Refuse a source without masks as labels."""
    column = source.label_column
    feature = source.features.get(column) if column else None
    if is_image(feature) or is_array(feature):
        return
    found = f"no masks in `label_column` {column!r} but {type(feature).__name__}" if column else "no labels"
    others = ", ".join(name for name in source.features if name != source.image_column)
    raise ValueError(
        f"`dataset` {source.name!r} has {found}; segmentation needs masks: set `label_column` to their column, one of "
        f"{others}, or use another dataset."
    )


def labels_of(source: ImageSource) -> np.ndarray | None:
    """Labels of all images, for lists of classes as in [`label_array`], without reading one; None for a stream."""
    if source.is_stream:
        return None
    labels = map_style(source)[source.label_column]
    return label_array(labels, source) if source.label_kind == "multi-label" else np.asarray(labels)


def map_style(source: ImageSource) -> Dataset:
    """The dataset of a source that is known not to be a stream."""
    return cast("Dataset", source.dataset)


def select_rows(source: ImageSource, rows: Sequence[int] | np.ndarray) -> ImageSource:
    """Some rows of a map-style source, in the order of their numbers in `rows`."""
    return replace(source, dataset=map_style(source).select(rows))


def count_classes(*labels: np.ndarray | torch.Tensor) -> int:
    """
    Number of classes of several sets of class numbers, which count from 0. ValueError for a number so large that a
    classifier with a row for each number would be almost empty.
    """
    different = {int(label) for of_set in labels for label in np.unique(np.asarray(of_set))}
    largest = max(different, default=0)
    if has_gaps(largest, len(different)):
        raise ValueError(
            f"The labels hold {largest:,}, but only {len(different):,} different numbers: set `label_kind: class`, "
            "number the classes from 0 or write them as texts, or use the protocol `linear`."
        )
    return largest + 1
