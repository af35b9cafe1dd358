"""ImageSource: a dataset, with the columns of its images and labels."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import islice, takewhile
from typing import Any

from .array_columns import is_array, with_arrays
from .dataset_kinds import Mixture, Opened, count_rows, is_stream
from .label_kinds import LabelKind, is_text, kind_of_labels
from .origins import Origin
from .streaming import EndlessRows

logger = logging.getLogger("lejepa_hf")

_NO_LABELS = ("id", "index", "idx", "index_level_0__", "width", "height")  # ends of the names of other integer columns
_ENCODED = ("binary", "large_binary", "string", "large_string")  # types that `datasets` can take for images


@dataclass
class ImageSource:
    """
    A dataset, with the columns of its images and labels.

    Args:
        dataset: `datasets.Dataset` or `datasets.IterableDataset` with undecoded images, or a [`Mixture`] of them.
        name (`str`): The name that the user gave, for messages.
        image_column (`str`): Column of the images.
        label_column (`str`, *optional*): Column of integer labels, or of masks for segmentation.
        class_names (`list[str]`, *optional*): Names of the labels, if known.
        split, config, revision (`str`, *optional*): Split, configuration and commit of the dataset, where it has them.
        max_image_pixels (`int`, *optional*): Width times height of the largest image that an evaluation decodes, see
            [`~data.view_settings.ViewSettings`].
        num_read (`int`, *optional*): Number of images that the last evaluation could read; all others are broken.
        kept_columns (`list[str]`, *optional*): Further columns that an evaluation reads.
        several_labels (`dict`, *optional*): Where several columns of classes are evaluated one by one, the names of
            the classes of each; `label_column` is the first of them.
        opened (pair of dataset and [`Origin`], *optional*): Where the rows of a dataset come from. It says nothing
            about this source once `dataset` is another one, a selection for example.
    """

    dataset: Opened
    name: str
    image_column: str
    label_column: str | None = None
    class_names: list[str] | None = None
    split: str | None = None
    config: str | None = None
    revision: str | None = None
    max_image_pixels: int | None = None
    num_read: int | None = None
    kept_columns: list[str] = field(default_factory=list)
    several_labels: dict[str, list[str] | None] = field(default_factory=dict)
    opened: tuple[Opened, Origin] | None = None

    @property
    def is_stream(self) -> bool:
        """Whether its images can only be read one after the other, not by number."""
        return is_stream(self.dataset)

    @property
    def num_images(self) -> int | None:
        """Number of images, None for a stream that does not say."""
        return count_rows(self.dataset)

    @property
    def origins(self) -> list[Origin]:
        """Where its images come from, one origin for each dataset of a mixture; empty if it is not known."""
        if isinstance(self.dataset, Mixture):
            return self.dataset.origins
        return [self.opened[1]] if self.opened is not None and self.opened[0] is self.dataset else []

    @property
    def features(self) -> Mapping[str, Any]:
        """The columns and their types, empty if they are not known."""
        return {} if isinstance(self.dataset, Mixture | list) else self.dataset.features or {}

    @property
    def label_kind(self) -> LabelKind | None:
        """What its label column holds; None without or with several ones, for masks, and if it is not known."""
        if self.label_column is None or self.several_labels:
            return None
        return kind_of_labels(self.features.get(self.label_column))

    @property
    def has_class_numbers(self) -> bool:
        """Whether its labels, if it has any, are one class number for each image, as far as it is known."""
        return self.label_kind in ("class", None) and not self.several_labels

    def with_label(self, column: str) -> "ImageSource":
        """The same images with one of `several_labels`."""
        return replace(self, label_column=column, class_names=self.several_labels[column], several_labels={})

    @property
    def fingerprint(self) -> str | None:
        """Identifies these images; None for a stream or a mixture."""
        return None if self.is_stream or isinstance(self.dataset, Mixture) else self.dataset._fingerprint


def some_rows(source: ImageSource, num_images: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """A random sample of at most `num_images` undecoded rows, by `seed`: folders and shards come class by class."""
    rows = EndlessRows(source.dataset, 1, seed, image_column=source.image_column, shuffle_buffer_size=num_images)
    return islice(takewhile(lambda row: row["epoch"] == 0, rows), num_images)


def find_columns(
    dataset: Opened, name: str, image_column: str | None, label_column: str | None, finds_integers: bool = True
) -> ImageSource:
    """
    Find the images and labels among the columns of a dataset, by their types where no column is given. Integers are
    labels only if they are the only ones and with `finds_integers`; without it a column called `label` is.
    """
    from datasets import ClassLabel, List, Value
    from datasets import Image as ImageFeature

    if dataset.features is None:  # a stream without a schema: read its first row
        dataset = dataset._resolve_features()
    features = dataset.features
    images = [column for column, feature in features.items() if is_image(feature)]
    arrays = [column for column, feature in features.items() if is_array(feature)]
    labels = [column for column, feature in features.items() if isinstance(feature, ClassLabel)]
    kinds = [f"Value({one.dtype})" if isinstance(one, Value) else type(one).__name__ for one in features.values()]
    described = ", ".join(f"{column}: {kind}" for column, kind in zip(features, kinds, strict=True))
    if image_column is None:
        candidates = images or arrays  # beside images, arrays are masks or depths
        if len(candidates) != 1:
            found = f"{len(candidates)} image columns ({', '.join(candidates)})" if candidates else "no image column"
            raise ValueError(f"`dataset` {name!r} has {found}; set `image_column` to one of its columns: {described}.")
        image_column = candidates[0]
    for setting, column in (("image_column", image_column), ("label_column", label_column)):
        if column is not None and column not in features:
            raise ValueError(f"`{setting}` {column!r} is not in `dataset` {name!r}; its columns are: {described}.")
    feature = features[image_column]
    if image_column in arrays:
        dataset = with_arrays(dataset, image_column, name)
    elif image_column in images or (isinstance(feature, Value) and feature.dtype in _ENCODED):
        dataset = dataset.cast_column(image_column, ImageFeature(decode=False))
    elif isinstance(feature, List) and is_image(feature.feature):  # several images of one object
        dataset = dataset.cast_column(image_column, List(ImageFeature(decode=False)))
    else:
        held = "neither images, their bytes nor paths, nor arrays of 2 or 3 axes"
        raise ValueError(f"`image_column` {image_column!r} of `dataset` {name!r} holds {held}; columns: {described}.")
    integers = [column for column, feature in features.items() if _is_integer(feature)]
    if not finds_integers:
        labels = ["label"] if "label" in features else labels
    elif "cls" in integers or (is_text(features.get("cls")) and not is_stream(dataset)):
        labels.append("cls")  # the name of labels in WebDataset; to number texts, a stream would be read as a whole
    elif not labels:
        integers = [column for column in integers if not column.lower().endswith(_NO_LABELS)]
        labels = integers if len(integers) == 1 else []
    label_column = label_column or (labels[0] if labels else None)
    if label_column in images:  # masks
        dataset = dataset.cast_column(label_column, ImageFeature(decode=False))
    label = features[label_column] if label_column is not None else None
    class_names = label.names if isinstance(label, ClassLabel) else None
    source = ImageSource(dataset, name, image_column, label_column, class_names)
    if not source.is_stream and not len(dataset):
        raise ValueError(f"`dataset` {name!r} has no images: it is empty.")
    unused = ", but texts: `label_column: cls` uses them" if is_text(features.get("cls")) else ""
    labelled = f"no labels{unused}" if label_column is None else f"labels in {label_column!r}"
    _log_once(f"{name}: images in column {image_column!r}, {labelled}")
    return source


def is_image(feature: object) -> bool:
    """Whether a column holds images, also where the schema lost their type."""
    from datasets import Image as ImageFeature

    return isinstance(feature, ImageFeature) or (isinstance(feature, dict) and feature.keys() == {"bytes", "path"})


def _is_integer(feature: object) -> bool:
    from datasets import Value

    return isinstance(feature, Value) and feature.dtype.startswith(("int", "uint"))


@cache
def _log_once(message: str) -> None:
    """Log a message the first time: a source is opened several times in a run."""
    logger.info(message)
