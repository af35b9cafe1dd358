"""The images that a recipe names."""

import logging
from dataclasses import replace
from typing import Any, NamedTuple

from ..data.dataset_kinds import Rows
from ..data.found_images import log_found_images
from ..data.held_out_share import share_of, split_off
from ..data.label_columns import with_labels_only
from ..data.labelled_source import open_labelled
from ..data.origins import rows_in_common
from ..data.row_groups import groups_of
from ..data.sources import ImageSource, load_mixture
from ..evaluation.label_by_label import pairs_of_columns
from ..evaluation.labelled_sources import check_classes, check_held_out_classes, check_labels
from ..evaluation.protocols.registry import make_protocols
from ..evaluation.protocols.served_labels import check_served, usual_protocols
from ..system.distributed import is_first_rank
from .arguments import DataArguments

logger = logging.getLogger("lejepa_hf")


_OF_CLASSES = ["linear", "knn", "few-shot"]  # the default of `eval_protocols`


class RunSources(NamedTuple):
    """The images of a run: those to train on, one source or a mixture, and held-out ones for the evaluation."""

    train: ImageSource
    held_out: ImageSource | None  # those with a label; without a label column where accuracies cannot be measured
    held_out_dataset: "Rows | None"  # all of them, under the column names of the training images


def open_sources(data: DataArguments) -> RunSources:
    """
    Open all images of a run, and refuse an evaluation whose images have labels that cannot be used, or are training
    images. Without labels there are no accuracies.
    """
    train, held_out = training_source(data), held_out_source(data)
    if held_out is None:
        return RunSources(train, None, None)
    # The evaluation at the end fits its protocols on labelled training images.
    fitted_on = with_labels_only(train) if data.mixture is None else fitting_source(data)
    _refuse_training_images(data, held_out, train, fitted_on)
    if data.group_column is not None and share_of(data.eval_split) is None:
        _refuse_common_groups(data, train if data.mixture is None else fitted_on, held_out)
    if held_out.label_column is None:
        if is_first_rank():
            logger.info(f"{held_out.name}: without labels the evaluation has no accuracies, but all else")
    else:
        _check_accuracies(data, with_labels_only(held_out), fitted_on)
    dataset: Any = held_out.dataset  # only training images can be a mixture
    for name, wanted in ((held_out.image_column, train.image_column), (held_out.label_column, train.label_column)):
        if name is not None and wanted is not None and name != wanted:
            dataset = dataset.rename_column(name, wanted)
    return RunSources(train, with_labels_only(held_out), dataset)


def _check_accuracies(data: DataArguments, held_out: ImageSource, fitted_on: ImageSource) -> None:
    """Refuse labels by which no accuracy can be measured, and protocols that cannot use them."""
    for train, test in pairs_of_columns((fitted_on, held_out)).values():
        _check_column(suitable_protocols(data, held_out), test, train)


def _check_column(protocols: list[str], held_out: ImageSource, fitted_on: ImageSource) -> None:
    for labelled in (held_out, fitted_on):
        check_labels(labelled)
    check_served(make_protocols(protocols, {}), held_out)
    check_classes(fitted_on)
    check_held_out_classes(fitted_on, held_out)


def suitable_protocols(data: DataArguments, held_out: ImageSource) -> list[str]:
    """The protocols of the recipe; in place of its default ones, which need classes, those for other labels."""
    is_default = data.eval_protocols == _OF_CLASSES
    return usual_protocols(held_out, _OF_CLASSES) if is_default else data.eval_protocols


def _refuse_common_groups(data: DataArguments, fitted_on: ImageSource, held_out: ImageSource) -> None:
    """Refuse two splits that have groups in common."""
    assert data.group_column is not None
    if fitted_on.is_stream or held_out.is_stream:
        raise ValueError(
            f"`group_column` {data.group_column!r} cannot be checked for the splits of a stream: leave `streaming` or "
            "`group_column` out."
        )
    groups = [set(groups_of(source, data.group_column)) for source in (fitted_on, held_out)]
    common = sorted(groups[0] & groups[1])
    if common:
        raise ValueError(
            f"`group_column` {data.group_column!r}: {len(common):,} of the {len(groups[1]):,} groups of `eval_split` "
            f"{data.eval_split!r} are in `train_split` {data.train_split!r} too ({', '.join(common[:3])}): name "
            "splits without common groups, or set `eval_split` to a share such as '10%'."
        )


def _refuse_training_images(
    data: DataArguments, held_out: ImageSource, train: ImageSource, fitted_on: ImageSource
) -> None:
    """Refuse held-out images that are known to be training images, by the names of their source and split."""
    entries = [f"entry {number} of `mixture`" for number in range(len(train.origins))]
    used = dict(zip(entries, train.origins, strict=True)) if data.mixture is not None else {}
    used |= {f"`train_split` {data.train_split!r}": origin for origin in fitted_on.origins}
    for where, origin in used.items():
        for of_held_out in held_out.origins:
            if (common := rows_in_common(origin, of_held_out)) is not None:
                raise ValueError(
                    f"`eval_split` {data.eval_split!r} of {held_out.name!r} has images that {where} reads too "
                    f"({common}): figures on them are not held out. Name a split that training does not read, or "
                    "leave `eval_split` out."
                )


def training_source(data: DataArguments) -> ImageSource:
    """Open the images to train on, one source or a mixture. The first time the log says what one source holds."""
    if data.mixture is None:
        source = _training_images(data)
        if is_first_rank():
            log_found_images(source, data.pixel_range, data.num_channels)
        return source
    mixture = load_mixture(data.mixture, data.streaming)
    return ImageSource(mixture, f"a mixture of {len(mixture.datasets)} datasets", "image")


def fitting_source(data: DataArguments) -> ImageSource:
    """Open the images that protocols are fitted on: of `train_split`, not held out of it, and with a label."""
    return with_labels_only(_training_images(data))


def _training_images(data: DataArguments) -> ImageSource:
    """Open `train_split` of the recipe's `dataset`, without the images that are held out of it."""
    source = open_split(data, data.train_split)
    if data.eval_split is None or share_of(data.eval_split) is None:
        return source
    return split_off(source, data.eval_split, data.group_column)[0]


def open_split(data: DataArguments, split: str, known: ImageSource | None = None) -> ImageSource:
    """Open one split of the recipe's `dataset`; classes that are texts are numbered as those that are `known`."""
    source = open_labelled(
        data.dataset, split, data.label_column, data.label_kind, known, config=data.dataset_config,
        streaming=data.streaming, image_column=data.view_column or data.image_column, revision=data.dataset_revision,
        data_files=data.data_files, max_image_pixels=data.max_image_pixels, **data.cut,
    )  # fmt: skip
    if data.view_column is not None and not hasattr(source.features[data.view_column], "feature"):
        raise ValueError(
            f"`view_column` {data.view_column!r} of {data.dataset!r} holds single images, not a list of them in each "
            "row: name it `image_column`."
        )
    return source


def held_out_source(data: DataArguments) -> ImageSource | None:
    """
    Open the images of the evaluation, None where the recipe has no `eval_split`; without a label column unless the
    images that protocols are fitted on have one too.
    """
    if data.eval_split is None:
        return None
    if share_of(data.eval_split) is not None:
        return split_off(open_split(data, data.train_split), data.eval_split, data.group_column)[1]
    train = open_split(data, data.train_split)
    held_out = open_split(data, data.eval_split, train)
    if held_out.label_column is None or train.label_column is not None:
        return held_out
    return replace(held_out, label_column=None, class_names=None)
