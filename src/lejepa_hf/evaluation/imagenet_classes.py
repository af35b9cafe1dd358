"""Labels that are WordNet ids, as in ImageNet-A and ImageNet-R -> the class numbers of ImageNet-1k."""

from dataclasses import replace
from functools import cache
from typing import Any

from ..data.image_source import ImageSource

NUM_CLASSES = 1000


@cache
def wordnet_ids() -> dict[str, int]:
    """
    The number of each class of ImageNet-1k by its WordNet id: `n01440764` is 0. The list comes with timm.

    Raises:
        ValueError: If timm is not installed.
    """
    try:
        from timm.data import ImageNetInfo
    except ImportError as error:
        raise ValueError(
            "`dataset`: this set has WordNet ids as labels, and the list of those of ImageNet comes with timm: "
            "`pip install timm`."
        ) from error
    return {wordnet_id: number for number, wordnet_id in enumerate(ImageNetInfo("imagenet-1k").label_names())}


def with_imagenet_classes(source: ImageSource) -> ImageSource:
    """
    The same images with class numbers of ImageNet-1k in place of WordNet ids, which are texts or the names of classes.

    Raises:
        ValueError: If a label is not the WordNet id of a class of ImageNet-1k, or timm is not installed.
    """
    from datasets import Dataset, Features, Value

    column = str(source.label_column)
    number_of = _numbers(source)

    def renumbered(label: int | str) -> int:
        if label not in number_of:
            raise ValueError(
                f"`label_column` {column!r} of `dataset` {source.name!r} holds {label!r}, which is not the WordNet id "
                "of a class of ImageNet-1k: name the column of its ids."
            )
        return number_of[label]

    dataset: Any = source.dataset
    if isinstance(dataset, Dataset):
        numbers = [renumbered(label) for label in dataset[column]]
        dataset = dataset.remove_columns(column).add_column(column, numbers, feature=Value("int64"))
    else:
        features = Features({**source.features, column: Value("int64")})
        dataset = dataset.map(lambda row: {column: renumbered(row[column])}, features=features)
    opened = None if source.opened is None else (dataset, source.opened[1])
    return replace(source, dataset=dataset, class_names=None, opened=opened)


def _numbers(source: ImageSource) -> dict[Any, int]:
    """The class of ImageNet-1k of each label: of texts by themselves, of numbers by the names of their classes."""
    ids = wordnet_ids()
    if source.class_names is None:
        return dict(ids)
    return {number: ids[name] for number, name in enumerate(source.class_names) if name in ids}
