"""What a Trainer uses where it is given little: arguments, a model by name or config, views, an image processor."""

import logging
import os
import sys
from pathlib import Path
from typing import Any

from transformers import AutoConfig, BitImageProcessor, PreTrainedConfig, set_seed

from ..configuration_lejepa import LeJEPAConfig
from ..data.collator import MultiCropCollator
from ..data.image_source import find_columns
from ..data.multi_crop import MultiCropTransform
from ..data.view_settings import ViewSettings
from ..evaluation.pixel_values import build_processor
from ..model.architecture import native_image_size
from ..model.loading_errors import explained
from ..modeling_lejepa import LeJEPAForPreTraining
from .view_fitting import fit_views

logger = logging.getLogger("lejepa_hf")

_BATCH, _STEPS, _SAVE_STEPS = 128, 5000, 1000  # as in recipes/folder/laptop.yaml
_NOT_BLURRED = 64  # pixels; the published blur leaves nothing of smaller crops


def default_arguments(model: object, num_images: int | None) -> dict[str, Any]:
    """
    What differs from the defaults of [`LeJEPATrainingArguments`] in a training without any arguments: 5,000 steps of
    128 images or, of fewer images, the largest power of two; bfloat16 where it is faster; a folder with the name of
    the model.
    """
    batch = _BATCH
    if num_images is not None:
        of_a_process = max(1, num_images // int(os.environ.get("WORLD_SIZE", "1")))
        batch = min(_BATCH, 2 ** (of_a_process.bit_length() - 1))
    name = Path(model).name if isinstance(model, str | Path) else "lejepa"
    logger.info(f"{_STEPS:,} steps of {batch} images, in runs/{name}: no `args` are given.")
    return {
        "output_dir": f"runs/{name}",
        "per_device_train_batch_size": batch,
        "max_steps": _STEPS,
        "save_steps": _SAVE_STEPS,
        "bf16": "auto",
    }


def starting_model(given: object, seed: int) -> object:
    """
    The model that a name or a config stands for; anything else is returned as it is. Weights and directions that are
    drawn follow from `seed`.

    A name is a Hub id or folder: of a [`LeJEPAForPreTraining`], which is trained further, or of any other vision
    model, whose weights the backbone starts from. A config is a [`LeJEPAConfig`] or that of a backbone; its weights
    are drawn. A name that cannot be loaded is a ValueError.
    """
    if not isinstance(given, str | Path | PreTrainedConfig):
        return given
    set_seed(seed)
    if isinstance(given, LeJEPAConfig):
        return LeJEPAForPreTraining(given)
    if isinstance(given, PreTrainedConfig):
        return LeJEPAForPreTraining(LeJEPAConfig(backbone_config=given, directions_seed=seed))
    name = str(given)
    with explained("model", name):
        kind = AutoConfig.from_pretrained(name, trust_remote_code=False).model_type
        if kind == LeJEPAConfig.model_type:
            return LeJEPAForPreTraining.from_pretrained(name)
    return LeJEPAForPreTraining.from_pretrained_backbone(name, directions_seed=seed)


def with_columns(dataset: object) -> tuple[object, str, str | None]:
    """
    A dataset of `datasets` with undecoded images, the column of its images, and that of its labels if it has some, all
    found by their types; other rows as they are, with `image`. ValueError if it is not clear which column it is.
    """
    if "datasets" in sys.modules:
        from datasets import Dataset, IterableDataset

        if isinstance(dataset, Dataset | IterableDataset):
            known = "image" if "image" in (dataset.column_names or []) else None
            source = find_columns(dataset, "train_dataset", known, None)
            return source.dataset, source.image_column, source.label_column
    return dataset, "image", None


def fitting_views(model: LeJEPAForPreTraining, seed: int, checkpoint: str | Path | None = None) -> MultiCropTransform:
    """
    The published views, in sizes that the backbone accepts and no larger than the images that it was made for; in the
    normalisation of the checkpoint that it starts from, if it has one.
    """
    config = model.encoder.backbone.config
    side, published = native_image_size(config), ViewSettings.global_crop_size
    settings: dict[str, Any] = {}
    if side < published:
        local_side = max(1, round(side * ViewSettings.local_crop_size / published))
        settings = {"global_crop_size": side, "local_crop_size": local_side}
    if side < _NOT_BLURRED:
        settings["blur_probability"] = 0.0
    return fit_views(MultiCropTransform(**settings, seed=seed), (), config, checkpoint)


def processor_of(collator: MultiCropCollator) -> BitImageProcessor:
    """The image processor for an encoder that is trained on these views: their global size and normalisation."""
    views = collator.transform
    return build_processor(
        views.global_crop_size, image_mean=views.image_mean, image_std=views.image_std, pixel_range=views.pixel_range
    )
