"""The images that a recipe names."""

from ..data.sources import ImageSource, load_mixture, load_source
from .recipes import DataArguments


def training_source(data: DataArguments) -> ImageSource:
    """
    The images a recipe trains on, one source or a mixture.

    Raises:
        ValueError: If they cannot be opened.
    """
    if data.mixture is None:
        return open_split(data, data.train_split)
    mixture = load_mixture(data.mixture, data.streaming)
    return ImageSource(mixture, f"a mixture of {len(mixture.datasets)} datasets", "image")


def open_split(data: DataArguments, split: str) -> ImageSource:
    """One split of the recipe's `dataset`."""
    return load_source(
        data.dataset,
        split,
        data.dataset_config,
        data.streaming,
        data.image_column,
        data.label_column,
        data.dataset_revision,
        data.data_files,
    )


def held_out_source(data: DataArguments) -> ImageSource | None:
    """
    The labelled images that a recipe's evaluation is done on, None where it has no `eval_split`.

    Raises:
        ValueError: If they cannot be opened, or have no labels.
    """
    if data.eval_split is None:
        return None
    held_out = open_split(data, data.eval_split)
    if held_out.label_column is None:
        raise ValueError(
            f"`eval_split` {data.eval_split!r} of {data.dataset!r} has no labels: name them with `label_column`, or "
            "leave `eval_split` out."
        )
    return held_out
