"""The two halves of an evaluation: images that fit, images that measure, and classes that both have."""

from collections.abc import Sequence

import numpy as np

from ..data.array_columns import is_array
from ..data.image_source import ImageSource, is_image
from ..data.sources import load_source
from .dataset_presets import find_preset


def labelled_sources(
    dataset, train_split: str | None = None, eval_split: str | None = None, **source
) -> tuple[ImageSource, ImageSource]:
    """
    Open both splits of a labelled dataset.

    Args:
        dataset: Name of a preset, see [`find_preset`], or whatever [`~data.sources.load_source`] opens.
        train_split (`str`, *optional*): Fits the protocols. That of the preset if missing, otherwise `train`.
        eval_split (`str`, *optional*): Measures them. That of the preset if missing, otherwise `test`.
        **source: Of [`~data.sources.load_source`]: `config`, `image_column`, `label_column` and so on.

    Returns:
        `tuple[ImageSource, ImageSource]`

    Raises:
        ValueError: If there is no such dataset or split.
    """
    preset = find_preset(dataset) if isinstance(dataset, str) else None
    if preset is not None:
        dataset = preset.dataset
        for name in ("config", "image_column", "label_column", "revision"):
            source[name] = source.get(name) or getattr(preset, name)
    train = load_source(dataset, train_split or getattr(preset, "train_split", "train"), **source)
    test = load_source(dataset, eval_split or getattr(preset, "eval_split", "test"), **source)
    return train, test


def check_pair(train: ImageSource, test: ImageSource) -> None:
    """
    Raises:
        ValueError: If both are the same images, or number their classes differently.
    """
    fingerprints = [source.fingerprint for source in (train, test)]
    if train.dataset is test.dataset or (fingerprints[0] is not None and fingerprints[0] == fingerprints[1]):
        raise ValueError(
            f"`dataset` {test.name!r}: what fits the protocols and what measures them are the same images. Name two "
            "splits with `train_split` and `eval_split`, give a `DatasetDict`, or two sources."
        )
    if train.class_names and test.class_names and train.class_names != test.class_names:
        differing = sorted(set(train.class_names) ^ set(test.class_names)) or ["in another order"]
        raise ValueError(
            f"The classes of {train.name!r} and {test.name!r} are not the same, so that their numbers mean different "
            f"things ({', '.join(differing[:5])}): give both folders the same classes, or both splits in one folder."
        )


def check_labels(source: ImageSource) -> None:
    """
    Raises:
        ValueError: If a source has no labels, or they are no numbers of classes; of a stream only as far as its
            features tell.
    """
    if source.label_column is None:
        raise ValueError(f"`dataset` {source.name!r} has no labels; set `label_column` or use a labelled one.")
    features = source.features
    feature = features[source.label_column] if features else None
    if feature is not None and is_image(feature):
        raise ValueError(
            f"`label_column` {source.label_column!r} of `dataset` {source.name!r} holds masks: only the protocol "
            "`segmentation` uses them; for others name a column of class numbers."
        )
    kind = str(getattr(feature, "dtype", "list")) if features else "int64"
    if not kind.startswith(("int", "uint")):
        others = ", ".join(name for name in features if name not in (source.image_column, source.label_column))
        raise ValueError(
            f"`label_column` {source.label_column!r} of `dataset` {source.name!r} holds no class numbers but "
            f"{kind}: name another column ({others or 'there is none'}), or make it a ClassLabel, for which "
            "`datasets` has `class_encode_column`."
        )
    labels = labels_of(source)
    if labels is not None:
        check_class_numbers(labels, source)


def check_class_numbers(labels: Sequence[int | None], source: ImageSource) -> None:
    """
    Args:
        labels (`Sequence[int | None]`): Of all images of a source, or of some.
        source ([`ImageSource`]): Where they are from.

    Raises:
        ValueError: If one of them is no class.
    """
    number = sum(label is None or label < 0 for label in labels)
    if number:
        raise ValueError(
            f"`dataset` {source.name!r}: {number:,} of {len(labels):,} images have no class in `label_column` "
            f"{source.label_column!r} but -1 or nothing, as test splits with secret labels do: name another split, or "
            "leave these rows out."
        )


def check_masks(source: ImageSource) -> None:
    """
    Raises:
        ValueError: If the labels of a source are no masks.
    """
    features = source.dataset.features
    if source.label_column is None:
        found = "no labels"
    elif is_image(features[source.label_column]) or is_array(features[source.label_column]):
        return
    else:
        found = (
            f"no masks in `label_column` {source.label_column!r} but {type(features[source.label_column]).__name__}"
        )
    raise ValueError(
        f"`dataset` {source.name!r} has {found}; segmentation needs masks: set `label_column` to their column, one of "
        f"{', '.join(name for name in features if name != source.image_column)}, or take another dataset."
    )


def labels_of(source: ImageSource) -> np.ndarray | None:
    """Class numbers of all its images, without reading an image; None for a stream."""
    if source.is_stream:
        return None
    return np.asarray(source.dataset[source.label_column])
