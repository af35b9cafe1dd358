"""Where images come from: one name, map-style or streaming, one dataset or several mixed."""

import difflib
import logging
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .embedded_digits import load_digits_split
from .mixture import Mixture
from .openers import FILE_KINDS, as_stream, kind_of_files, no_such_folder, open_files, open_folder, open_hub
from .streaming import count_rows

logger = logging.getLogger("lejepa_hf")

DIGITS = "digits"
_ENTRY_KEYS = ("dataset", "weight", "config", "split", "revision", "data_files", "image_column")


@dataclass
class ImageSource:
    """
    A dataset and where its images and labels stand.

    Args:
        dataset: `datasets.Dataset` or `datasets.IterableDataset` with undecoded images, or a [`Mixture`] of them.
        name (`str`): What the user asked for.
        image_column (`str`): Column of the images.
        label_column (`str`, *optional*): Column of integer labels, if there is one.
        class_names (`list[str]`, *optional*): Names of the labels, if known.
    """

    dataset: object
    name: str
    image_column: str
    label_column: str | None = None
    class_names: list[str] | None = None

    @property
    def num_images(self) -> int | None:
        """Number of images, None for a stream that does not say."""
        return count_rows(self.dataset)


def load_source(
    name,
    split: str = "train",
    config: str | None = None,
    streaming: bool = False,
    image_column: str | None = None,
    label_column: str | None = None,
    revision: str | None = None,
    data_files: str | list[str] | None = None,
) -> ImageSource:
    """
    Open a source of images.

    Args:
        name: `"digits"`; a dataset id of the Hub; a folder of images; Parquet or WebDataset tar files as a path, a
            glob or a url (`hf://datasets/user/name/*.parquet` too), where `{000..123}` stands for a range; `"parquet"`
            or `"webdataset"` with such files in `data_files`; or a dataset that `datasets` has built already.
        split (`str`, *optional*, defaults to `"train"`): Which part; a slice like `"train[:1000]"` works unstreamed.
        config (`str`, *optional*): Configuration of a Hub dataset.
        streaming (`bool`, *optional*, defaults to `False`): Read while training instead of downloading first.
        image_column (`str`, *optional*): Found by its type if missing. A column of encoded bytes or of paths may be
            named too.
        label_column (`str`, *optional*): Found by its type if missing; a source without labels is fine.
        revision (`str`, *optional*): Branch, tag or commit of a Hub dataset.
        data_files (`str` or `list[str]`, *optional*): Which files, as paths or globs.

    Returns:
        [`ImageSource`]

    Raises:
        ValueError: If there is no such source, split, column or image; the message names what was found.
    """
    if not isinstance(name, str | Path):
        name, dataset = _given(name, split)
        return _describe(as_stream(dataset, streaming), name, image_column, label_column)
    name = os.path.expanduser(name)
    if name == DIGITS:
        dataset = as_stream(load_digits_split(split), streaming)
    elif name in FILE_KINDS:
        if not data_files:
            raise ValueError(f"`data_files` is missing: `dataset` {name!r} says what the files are, not where.")
        dataset = open_files(name, data_files, name, split, streaming)
    elif kind := kind_of_files(name):
        dataset = open_files(kind, name, name, split, streaming)
    elif os.path.isdir(name):
        dataset = open_folder(name, split, streaming)
    elif name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise no_such_folder(name)
    else:
        dataset = open_hub(name, split, streaming, config, revision, data_files)
    return _describe(dataset, name, image_column, label_column)


def load_mixture(entries: list[dict], streaming: bool = False) -> Mixture:
    """
    Open several sources to be mixed.

    Args:
        entries (`list[dict]`): Of each source its `dataset`, its `weight` (1 if missing), and as in [`load_source`]
            `config`, `split`, `revision`, `data_files`, `image_column`.
        streaming (`bool`, *optional*, defaults to `False`): For all of them.

    Returns:
        [`Mixture`]: Rows have the one column `image`.

    Raises:
        ValueError: If an entry has an unknown key or no `dataset`, a weight is not positive, or a source cannot be
            opened.
    """
    datasets = []
    for number, entry in enumerate(entries):
        unknown = [key for key in entry if key not in _ENTRY_KEYS]
        if unknown:
            close = difflib.get_close_matches(unknown[0], _ENTRY_KEYS, n=1)
            hint = f"did you mean `{close[0]}`?" if close else f"known are {', '.join(_ENTRY_KEYS)}."
            raise ValueError(f"`{unknown[0]}` in entry {number} of `mixture` is not a known key; {hint}")
        if not entry.get("dataset"):
            raise ValueError(f"Entry {number} of `mixture` has no `dataset`: {entry}.")
        settings = {key: value for key, value in entry.items() if key not in ("dataset", "weight")}
        source = load_source(entry["dataset"], streaming=streaming, **settings)
        dataset = source.dataset.select_columns([source.image_column])
        datasets.append(
            dataset if source.image_column == "image" else dataset.rename_column(source.image_column, "image")
        )
    return Mixture(datasets, [entry.get("weight", 1.0) for entry in entries])


def _given(dataset, split: str) -> tuple[str, object]:
    """A readable name for a dataset that was built elsewhere, and the split of several."""
    if isinstance(dataset, dict):
        if split not in dataset:
            raise ValueError(f"`dataset` has no split {split!r}: it has {', '.join(dataset)}.")
        dataset = dataset[split]
    if not hasattr(dataset, "features"):
        raise ValueError(f"`dataset` must be a name or a dataset of `datasets`, got {type(dataset).__name__}.")
    return getattr(dataset.info, "dataset_name", None) or "the given dataset", dataset


def _describe(dataset, name: str, image_column: str | None, label_column: str | None) -> ImageSource:
    from datasets import ClassLabel, Value
    from datasets import Image as ImageFeature

    features = dataset.features
    if features is None:  # a stream whose schema nobody wrote down: its first row tells
        dataset = dataset._resolve_features()
        features = dataset.features
    images = [column for column, feature in features.items() if isinstance(feature, ImageFeature)]
    labels = [column for column, feature in features.items() if isinstance(feature, ClassLabel)]
    described = ", ".join(f"{column}: {type(feature).__name__}" for column, feature in features.items())
    if image_column is None:
        if len(images) != 1:
            found = f"{len(images)} image columns ({', '.join(images)})" if images else "no image column"
            raise ValueError(f"`dataset` {name!r} has {found}; set `image_column` to one of its columns: {described}.")
        image_column = images[0]
    for field, column in (("image_column", image_column), ("label_column", label_column)):
        if column is not None and column not in features:
            raise ValueError(f"`{field}` {column!r} is not in `dataset` {name!r}; its columns are: {described}.")
    feature = features[image_column]
    if image_column in images or (
        isinstance(feature, Value) and feature.dtype in ("binary", "large_binary", "string")
    ):
        dataset = dataset.cast_column(image_column, ImageFeature(decode=False))
    if "cls" in features and isinstance(features["cls"], Value) and features["cls"].dtype.startswith("int"):
        labels.append("cls")  # as WebDataset calls its labels
    label_column = label_column or (labels[0] if labels else None)
    class_names = getattr(features[label_column], "names", None) if label_column is not None else None
    _say_once(f"{name}: images in column {image_column!r}, labels in {label_column and repr(label_column)}")
    return ImageSource(dataset, name, image_column, label_column, class_names)


@cache
def _say_once(message: str) -> None:
    """A source is opened several times in a run; it is told once."""
    logger.info(message)
