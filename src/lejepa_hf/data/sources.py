"""Where images come from: one name, map-style or streaming, one dataset or several mixed."""

import difflib
import logging
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .array_columns import is_array, with_arrays
from .dataset_files import FILE_KINDS, as_stream, kind_of_files, no_such_folder, open_files, open_hub, without_secrets
from .digit_scenes import load_digit_scenes_split
from .embedded_digits import load_digits_split
from .image_folder import open_folder
from .mixture import Mixture
from .saved_dataset import is_saved_dataset, open_saved_dataset
from .streaming import count_rows

logger = logging.getLogger("lejepa_hf")

DIGITS, DIGIT_SCENES = "digits", "digit-scenes"
_EMBEDDED = {DIGITS: load_digits_split, DIGIT_SCENES: load_digit_scenes_split}
_ENTRY_KEYS = ("dataset", "weight", "config", "split", "revision", "data_files", "image_column")
_ENCODED = ("binary", "large_binary", "string", "large_string")  # that `datasets` can take for images


@dataclass
class ImageSource:
    """
    A dataset and where its images and labels stand.

    Args:
        dataset: `datasets.Dataset` or `datasets.IterableDataset` with undecoded images, or a [`Mixture`] of them.
        name (`str`): What the user asked for.
        image_column (`str`): Column of the images.
        label_column (`str`, *optional*): Column of integer labels, if there is one; or of masks, for segmentation.
        class_names (`list[str]`, *optional*): Names of the labels, if known.
        split, config, revision (`str`, *optional*): Which part of `name` it is, as far as it has parts.
    """

    dataset: object
    name: str
    image_column: str
    label_column: str | None = None
    class_names: list[str] | None = None
    split: str | None = None
    config: str | None = None
    revision: str | None = None

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
        name: `"digits"` or `"digit-scenes"`; a dataset id of the Hub; a folder of images, or one that
            `save_to_disk` wrote; Parquet or WebDataset tar
            files as a path, a glob or a url (`hf://datasets/user/name/*.parquet` too), where `{000..123}` stands for a
            range; `"parquet"` or `"webdataset"` with such files in `data_files`; or a dataset that `datasets` has
            built already.
        split (`str`, *optional*, defaults to `"train"`): Which part; a slice like `"train[:1000]"` works unstreamed.
        config (`str`, *optional*): Configuration of a Hub dataset.
        streaming (`bool`, *optional*, defaults to `False`): Read while training instead of downloading first.
        image_column (`str`, *optional*): Found by its type if missing: images, or where there are none
            `datasets.Array2D` or `Array3D`. A column of encoded bytes, `.npy` among them, or of paths may be named
            too.
        label_column (`str`, *optional*): Found by its type if missing; a source without labels is fine. Masks, which
            are images beside the images, must be named.
        revision (`str`, *optional*): Branch, tag or commit of a Hub dataset.
        data_files (`str` or `list[str]`, *optional*): Which files, as paths or globs.

    Returns:
        [`ImageSource`]

    Raises:
        ValueError: If there is no such source, split, column or image; the message names what was found.
    """
    if not isinstance(name, str | Path):
        _refuse("a dataset built already", config=config, revision=revision, data_files=data_files)
        split = split if isinstance(name, dict) else None
        name, dataset = _given(name, split)
        source = _describe(as_stream(dataset, streaming), name, image_column, label_column)
        source.split = split
        if not hasattr(dataset, "__len__"):
            source.dataset.info.splits = None  # of the whole set; what was taken or filtered is not told
        return source
    name = os.path.expanduser(name)
    shown = without_secrets(name)
    if name in FILE_KINDS:
        _refuse(f"`dataset` {name!r}", config=config, revision=revision)
        if not data_files:
            raise ValueError(f"`data_files` is missing: `dataset` {name!r} says what the files are, not where.")
        dataset = open_files(name, data_files, shown, split, streaming)
    elif kind := kind_of_files(name):
        _refuse(f"`dataset` {shown!r}", config=config, revision=revision, data_files=data_files)
        dataset = open_files(kind, name, shown, split, streaming)
    elif name in _EMBEDDED:
        _refuse(f"`dataset` {name!r}", config=config, revision=revision, data_files=data_files)
        dataset = as_stream(_EMBEDDED[name](split), streaming)
    elif os.path.isdir(name):
        _refuse(f"the folder {name!r}", config=config, revision=revision, data_files=data_files)
        opened = open_saved_dataset if is_saved_dataset(name) else open_folder
        dataset = opened(name, split, streaming)
    elif "://" in name:
        raise ValueError(
            f"`dataset` {shown!r} does not say what it holds: end it in .parquet or .tar, or name it in `data_files` "
            f"with `dataset: {' or '.join(FILE_KINDS)}`."
        )
    elif name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise no_such_folder(name)
    else:
        dataset = open_hub(name, split, streaming, config, revision, data_files)
    source = _describe(dataset, shown, image_column, label_column)
    source.split, source.config, source.revision = split, config, revision
    return source


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
    if not entries:
        raise ValueError("`mixture` is empty: give at least one source, as `- dataset: ...`.")
    datasets = []
    for number, entry in enumerate(entries):
        place = f"entry {number} of `mixture`"
        if not isinstance(entry, dict) or "dataset" not in entry:
            raise ValueError(f"`dataset` is missing in {place}: {entry}.")
        unknown = [key for key in entry if key not in _ENTRY_KEYS]
        if unknown:
            close = difflib.get_close_matches(str(unknown[0]), _ENTRY_KEYS, n=1)
            hint = f"did you mean `{close[0]}`?" if close else f"known are {', '.join(_ENTRY_KEYS)}."
            raise ValueError(f"`{unknown[0]}` in {place} is not a known key; {hint}")
        settings = {key: value for key, value in entry.items() if key not in ("dataset", "weight")}
        source = load_source(entry["dataset"], streaming=streaming, **settings)
        if not streaming and not hasattr(source.dataset, "__len__"):
            raise ValueError(f"`dataset` in {place} is a stream: set `streaming: true`, for all of them.")
        dataset = source.dataset.select_columns([source.image_column])
        datasets.append(
            dataset if source.image_column == "image" else dataset.rename_column(source.image_column, "image")
        )
    return Mixture(datasets, [entry.get("weight", 1.0) for entry in entries])


def _refuse(what: str, **settings) -> None:
    """What would be ignored is not let pass."""
    for field, value in settings.items():
        if value is not None:
            raise ValueError(f"`{field}` {value!r} has no meaning for {what}: leave it out.")


def _given(dataset, split: str | None) -> tuple[str, object]:
    """A readable name for a dataset that was built elsewhere, and the split of several."""
    if isinstance(dataset, dict):
        if split not in dataset:
            raise ValueError(f"`dataset` has no split {split!r}: it has {', '.join(map(str, dataset))}.")
        dataset = dataset[split]
    if not hasattr(dataset, "features"):
        raise ValueError(
            f"`dataset` must be a name or a dataset of `datasets`, got {type(dataset).__name__}; several files go "
            "into `data_files`."
        )
    name = getattr(dataset.info, "dataset_name", None) or "the given dataset"
    return name, dataset.with_format(None)  # rows as they are stored: no tensors, no transform


def _describe(dataset, name: str, image_column: str | None, label_column: str | None) -> ImageSource:
    from datasets import ClassLabel, Value
    from datasets import Image as ImageFeature

    if dataset.features is None:  # a stream whose schema nobody wrote down: its first row tells
        dataset = dataset._resolve_features()
    features = dataset.features
    images = [column for column, feature in features.items() if is_image(feature)]
    arrays = [column for column, feature in features.items() if is_array(feature)]
    labels = [column for column, feature in features.items() if isinstance(feature, ClassLabel)]
    described = ", ".join(f"{column}: {_kind(feature)}" for column, feature in features.items())
    if image_column is None:
        candidates = images or arrays  # beside images, arrays are masks or depths
        if len(candidates) != 1:
            found = f"{len(candidates)} image columns ({', '.join(candidates)})" if candidates else "no image column"
            raise ValueError(f"`dataset` {name!r} has {found}; set `image_column` to one of its columns: {described}.")
        image_column = candidates[0]
    for field, column in (("image_column", image_column), ("label_column", label_column)):
        if column is not None and column not in features:
            raise ValueError(f"`{field}` {column!r} is not in `dataset` {name!r}; its columns are: {described}.")
    if image_column in arrays:
        dataset = with_arrays(dataset, image_column, name)
    elif image_column in images or getattr(features[image_column], "dtype", None) in _ENCODED:
        dataset = dataset.cast_column(image_column, ImageFeature(decode=False))
    else:
        raise ValueError(
            f"`image_column` {image_column!r} of `dataset` {name!r} holds neither images, their bytes nor paths, nor "
            f"arrays of 2 or 3 axes; its columns are: {described}."
        )
    if "cls" in features and isinstance(features["cls"], Value) and features["cls"].dtype.startswith("int"):
        labels.append("cls")  # as WebDataset calls its labels
    label_column = label_column or (labels[0] if labels else None)
    if label_column in images:  # masks
        dataset = dataset.cast_column(label_column, ImageFeature(decode=False))
    class_names = getattr(features[label_column], "names", None) if label_column is not None else None
    if hasattr(dataset, "__len__") and not len(dataset):
        raise ValueError(f"`dataset` {name!r} has no images: it is empty.")
    _say_once(f"{name}: images in column {image_column!r}, labels in {label_column and repr(label_column)}")
    return ImageSource(dataset, name, image_column, label_column, class_names)


def is_image(feature) -> bool:
    """An image, or what is left of one where the schema forgot its type."""
    from datasets import Image as ImageFeature

    return isinstance(feature, ImageFeature) or (isinstance(feature, dict) and feature.keys() == {"bytes", "path"})


def _kind(feature) -> str:
    kind = type(feature).__name__
    return f"{kind}({feature.dtype})" if kind == "Value" else kind


@cache
def _say_once(message: str) -> None:
    """A source is opened several times in a run; it is told once."""
    logger.info(message)
