"""Images in place of a recipe: facts about them and the machine are read, and a packaged recipe is chosen."""

import logging
import math
import os
import statistics
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from ..data.dataset_files import DIGITS, kind_of_files
from ..data.dataset_kinds import count_classes
from ..data.decoding import DECODING_ERRORS, Pixels, open_image, stored_size
from ..data.held_out_share import share_of, split_off
from ..data.image_source import some_rows
from ..data.labelled_source import open_labelled
from ..data.pixel_ranges import PixelRange
from ..data.sources import ImageSource
from ..data.tables import TABLE_KINDS
from ..evaluation.labelled_sources import check_classes, check_labels
from ..system.devices import cores_of_this_process, default_device, memory_of
from ..system.installed_package import find_packaged
from .recipe_choice import ImageFacts, MachineFacts, choose_recipe
from .recipe_text import is_recipe, parse_command_line
from .recipes import key_types

logger = logging.getLogger("lejepa_hf")

_SAMPLE = 200  # images whose sizes are read, from their headers
_HELD_OUT = ("validation", "test")  # the first one; `test` is then left for `lejepa evaluate`
# The share of the training images that is held out if there is no such split, and from how many images on: an accuracy
# on 100 images is uncertain by 10 points, on 500 by 4.
_SHARES = ((10_000, "5%"), (5_000, "10%"), (0, "20%"))
_FEWEST = 40  # images; of fewer, nothing is held out
_SOURCE_KEYS = {
    "dataset_config": "config", "dataset_revision": "revision", "data_files": "data_files",
    "image_column": "image_column", "label_column": "label_column", "label_kind": "label_kind", "pages": "pages",
    "slice_axis": "slice_axis", "window_size": "window_size",
}  # fmt: skip


def with_recipe(arguments: list[str]) -> list[str]:
    """
    Put a recipe first in a command line that may begin with images.

    Args:
        arguments (`list[str]`): Recipe file, name of a packaged recipe, or else a folder of images, Parquet or tar
            files, or id of a Hub dataset; then `--key value` pairs.

    Returns:
        `list[str]`: As given if a recipe comes first. Otherwise the packaged recipe that fits, `--dataset`, as
        `--eval_split` a held-out split, or a share of the images if there is none, and the pairs, which win. Two lines
        of the log say which recipe it is and why.

    Raises:
        ValueError: If the first argument is neither a recipe nor images, or the images cannot be opened.
    """
    given, pairs = arguments[0], arguments[1:]
    if is_recipe(given):
        return arguments
    if given == DIGITS:  # a folder here, or it would have been refused
        given = os.path.join(os.curdir, given)
    settings = parse_command_line(pairs, key_types())
    images = read_images(given, settings)
    machine = read_machine(bool(settings.get("use_cpu")))
    choice = choose_recipe(images, machine)
    logger.info(f"{given}: {_describe(images, machine)}.")
    logger.info(f"Recipe {choice.name}: {choice.reason} (`lejepa recipes show {choice.name}` prints it).")
    held_out = ["--eval_split", images.held_out] if images.held_out is not None else []
    return [
        choice.name,
        "--dataset",
        given,
        *held_out,
        *_smaller_batch(choice.name, _trained_on(images.number, settings.get("eval_split", images.held_out))),
        *pairs,
    ]


def _trained_on(number: int | None, eval_split: str | None) -> int | None:
    """About how many of so many images are trained on, if a share of them is held out."""
    share = share_of(eval_split)
    return number if number is None or share is None else number - math.ceil(share * number)


def _smaller_batch(recipe: str, number: int | None) -> list[str]:
    """The key of a batch that the images can fill, if they are fewer than one batch of the recipe."""
    batch = yaml.safe_load(find_packaged(recipe).read_text(encoding="utf-8"))["per_device_train_batch_size"]
    if number is None or not 2 <= number < batch:
        return []
    fitting = 2 ** (number.bit_length() - 1)
    logger.info(f"Batches have {fitting} images instead of {batch}: there are only {number}.")
    return ["--per_device_train_batch_size", str(fitting)]


def read_images(name: str, settings: Mapping[str, Any] | None = None) -> ImageFacts:
    """
    Look at images: all their names, and the headers of a sample.

    Args:
        name (`str`): As in [`~data.sources.load_source`].
        settings (`dict`, *optional*): Keys of a recipe, of which those that describe the source are used.

    Raises:
        ValueError: If there are no images, or none of the sample can be opened.
    """
    settings = settings or {}
    source = {ours: settings[key] for key, ours in _SOURCE_KEYS.items() if key in settings}
    # The rows of a folder or table are names; others are streamed, so that a sample needs no download.
    source["streaming"] = not Path(name).expanduser().is_dir() and kind_of_files(name) not in TABLE_KINDS
    train = open_labelled(name, settings.get("train_split", "train"), **source)
    held_out = None
    if "eval_split" not in settings:
        held_out = _held_out_split(train, name, source) or _held_out_share(train, settings)
    return facts_of(train, held_out, pixel_range=settings.get("pixel_range"))


def _held_out_split(train: ImageSource, name: str, source: dict[str, Any]) -> str | None:
    """The first split on which the encoder can be evaluated, None if there is none, or its labels cannot be used."""
    is_labelled = train.label_column is not None
    read = {part.partition("[")[0] for part in (train.split or "").split("+")}
    for split in (split for split in _HELD_OUT if split not in read):
        with suppress(ValueError):
            if is_labelled:
                check_labels(train)
                check_classes(train)
            held_out = open_labelled(name, split, **source)
            if is_labelled:
                check_labels(held_out)
            if held_out.num_images != 1:
                return split
    return None


def share_to_hold_out(num_images: int | None) -> str:
    """The share of so many training images, None for an unknown number, as `eval_split` has it."""
    return next(share for fewest, share in _SHARES if num_images is None or num_images >= fewest)


def _held_out_share(train: ImageSource, settings: Mapping[str, Any]) -> str | None:
    """The share on which the encoder can be evaluated, None if the images are too few, of one file or of a mixture."""
    if "mixture" in settings or (train.num_images is not None and train.num_images < _FEWEST):
        return None
    with suppress(ValueError):
        if train.label_column is not None:
            check_labels(train)
            check_classes(train)
        share = share_to_hold_out(train.num_images)
        split_off(train, share, settings.get("group_column"))
        return share
    return None


def facts_of(
    source: ImageSource, held_out: str | None = None, num_channels: int = 3, pixel_range: PixelRange | None = None
) -> ImageFacts:
    """
    Read the headers of a random sample of images, for views of `num_channels` with this `pixel_range`; `held_out` is
    the split for an evaluation that is known already. ValueError if none of them can be opened.
    """
    sizes, channels, failure = [], [1], None
    for row in some_rows(source, _SAMPLE):
        try:
            image = open_image(row[source.image_column], num_channels, pixel_range)
        except DECODING_ERRORS as error:
            failure = error
            continue
        sizes.append(min(stored_size(image)))
        channels.append(_count_channels(image))
    if not sizes:
        raise ValueError(f"`dataset` {source.name!r}: none of the first images can be opened: {failure}")
    labels = source.label_column
    return ImageFacts(
        number=source.num_images,
        median_side=int(statistics.median(sizes)),
        smallest_side=min(sizes),
        channels=max(channels),
        classes=count_classes(source.dataset, labels) if labels is not None else None,
        held_out=held_out,
    )


def _count_channels(image: Pixels) -> int:
    if isinstance(image, np.ndarray):
        return 1 if image.ndim == 2 else image.shape[-1]
    return 3 if image.mode == "P" else len(image.getbands())


def read_machine(use_cpu: bool = False) -> MachineFacts:
    """What a training process here may use; without the accelerator with `use_cpu`."""
    device = torch.device("cpu") if use_cpu else default_device()
    return MachineFacts(device.type, memory_of(device), cores_of_this_process())


def _describe(images: ImageFacts, machine: MachineFacts) -> str:
    number = "a stream of" if images.number is None else f"{images.number:,}"
    colours = {1: "grey", 2: "grey", 3: "RGB", 4: "RGBA"}.get(images.channels, f"{images.channels} channels")
    classes = "no labels" if images.classes is None else f"{images.classes} classes"
    held_out = ""
    if images.held_out is not None:
        is_share = share_of(images.held_out) is not None
        held_out = f", {images.held_out} held out" if is_share else f", held-out split {images.held_out}"
    gpu = "no GPU"
    if machine.device != "cpu":
        gpu = machine.device + (f" of {machine.memory / 2**30:.0f} GiB" if machine.memory else "")
    return (
        f"{number} images, shorter side {images.median_side} pixels (smallest {images.smallest_side}), {colours}, "
        f"{classes}{held_out}; {gpu}, {machine.cores} CPU core{'s' if machine.cores > 1 else ''}"
    )
