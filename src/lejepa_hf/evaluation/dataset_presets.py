"""Labelled datasets by the names that papers use."""

import difflib
import os
from dataclasses import dataclass
from typing import Any

from ..data.dataset_files import DIGITS, FILE_KINDS, kind_of_files
from ..data.parquet_branch import PARQUET_BRANCH


@dataclass(frozen=True)
class DatasetPreset:
    """
    A labelled dataset of the Hub: its id, and arguments of [`~data.sources.load_source`].

    A set that only measures names the preset whose training images protocols are `fitted_on`. Its labels are the class
    numbers of that preset, or `has_wordnet_ids`. If it has some of the classes, papers have `held_out_classes_only`
    guessed.
    """

    dataset: str
    train_split: str = "train"
    eval_split: str = "test"
    config: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    revision: str | None = None
    data_files: dict[str, str] | None = None  # of each split, where the repository has other large files
    ignore_labels: tuple[int, ...] = (255,)  # values of masks
    metrics: tuple[str, ...] | None = None  # where the field reports others than accuracies
    fitted_on: str | None = None
    has_wordnet_ids: bool = False
    held_out_classes_only: bool = False


IMAGENET = "imagenet-1k"
_TARS = {"test": "test/*.tar"}
_BY_CLASS = ("top1", "top5", "mean-per-class")  # as reported since arXiv 1805.08974 on transfer

# Those of the paper's Tables 1, 2, 3 and 5, and of the usual lists.
PRESETS = {
    DIGITS: DatasetPreset(DIGITS),
    IMAGENET: DatasetPreset("ILSVRC/imagenet-1k", eval_split="validation"),
    # Their repositories hold programs that make the datasets; the Hub keeps the images on a branch of its own.
    "imagenette": DatasetPreset("frgfm/imagenette", eval_split="validation", config="320px", revision=PARQUET_BRANCH),
    # With images whose shorter side is 160 pixels.
    "imagenet-100": DatasetPreset("clane9/imagenet-100", eval_split="validation"),
    "food101": DatasetPreset("ethz/food101", eval_split="validation"),
    "cifar10": DatasetPreset("uoft-cs/cifar10", image_column="img", label_column="label"),
    "cifar100": DatasetPreset("uoft-cs/cifar100", image_column="img", label_column="fine_label"),
    "stl10": DatasetPreset("tanganke/stl10"),
    "flowers102": DatasetPreset("dpdl-benchmark/oxford_flowers102", metrics=_BY_CLASS),
    "dtd": DatasetPreset("tanganke/dtd"),
    # 6,667 images to fit on, as in the benchmark's own `trainval`.
    "fgvc-aircraft": DatasetPreset(
        "mteb/FGVCAircraft", train_split="train+validation", label_column="variant", metrics=_BY_CLASS
    ),
    # Seven other splits are damaged copies of `test`.
    "stanford-cars": DatasetPreset(
        "tanganke/stanford_cars", data_files={"train": "data/train-*", "test": "data/test-*"}
    ),
    "oxford-pets": DatasetPreset("timm/oxford-iiit-pet", label_column="label", metrics=_BY_CLASS),
    "galaxy10": DatasetPreset("matthieulel/galaxy10_decals", label_column="label"),
    # Robustness: classifiers are fitted on ImageNet-1k. A and R have 200 of its classes.
    "imagenet-v2": DatasetPreset("clip-benchmark/wds_imagenetv2", data_files=_TARS, fitted_on=IMAGENET),
    "imagenet-sketch": DatasetPreset("clip-benchmark/wds_imagenet_sketch", data_files=_TARS, fitted_on=IMAGENET),
    "imagenet-a": DatasetPreset(
        "barkermrl/imagenet-a",
        eval_split="train",
        label_column="label",
        fitted_on=IMAGENET,
        has_wordnet_ids=True,
        held_out_classes_only=True,
    ),
    "imagenet-r": DatasetPreset(
        "axiong/imagenet-r",
        label_column="wnid",
        fitted_on=IMAGENET,
        has_wordnet_ids=True,
        held_out_classes_only=True,
    ),
    # With masks, for segmentation. Ids and columns come from public pages and code; not run yet.
    # A program too. 0 stands for everything outside of the 150 classes.
    "ade20k": DatasetPreset(
        "zhoubolei/scene_parse_150",
        eval_split="validation",
        config="scene_parsing",
        image_column="image",
        label_column="annotation",
        revision=PARQUET_BRANCH,
        ignore_labels=(0, 255),
    ),
    # Its `train` is the usual `trainaug`: 10,582 images, the 1,464 of the benchmark among them.
    "voc2012": DatasetPreset("jxie/pascal-voc-2012", eval_split="val", image_column="image", label_column="mask"),
}


def find_preset(name: str) -> DatasetPreset | None:
    """Find a preset by its name; None for a Hub id, files or a folder, a ValueError for anything else."""
    known = PRESETS.get(name.lower().replace("_", "-"))
    if known is not None or "/" in name or name in FILE_KINDS or os.path.exists(name) or kind_of_files(name):
        return known
    close = difflib.get_close_matches(name.lower(), PRESETS, n=1, cutoff=0.5)
    hint = f"Did you mean {close[0]!r}? Presets" if close else "Presets"
    raise ValueError(
        f"`dataset` {name!r} is not a preset, a folder or an id of the Hub like 'user/name'. {hint} are "
        f"{', '.join(PRESETS)}."
    )


def usual_settings(dataset: object) -> dict[str, Any]:
    """Settings of protocols that go with a dataset: those of a preset if `dataset` is the name of one."""
    preset = find_preset(dataset) if isinstance(dataset, str) else None
    preset = preset or DatasetPreset("")
    only = preset.held_out_classes_only or None
    return {"ignore_labels": preset.ignore_labels, "metrics": preset.metrics, "held_out_classes_only": only}
