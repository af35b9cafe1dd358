"""The views of a recipe, fitted to the backbone that will see them: their channels, normalisation and sizes."""

import logging
from pathlib import Path

from transformers import AutoImageProcessor, PreTrainedConfig

from ..model.architecture import is_timm, num_channels
from ..model.crop_sizes import accepted_crop_sizes
from .recipes import Recipe

logger = logging.getLogger("lejepa_hf")


def fit_views(config: PreTrainedConfig, recipe: Recipe, start: str | Path | None = None) -> None:
    """
    Change what the recipe leaves open or the backbone cannot take, in `recipe.data`, and say it in the log.

    Mean and standard deviation that nobody gave are those of the checkpoint of a warm start, or 0.5 where there are
    not three channels. Crops get the nearest size that the backbone takes.

    Args:
        config (`PreTrainedConfig`): The backbone's, as its model has it.
        recipe ([`Recipe`]): Its `data` is changed in place.
        start (`str` or `Path`, *optional*): Where the weights come from; `pretrained_backbone` if missing.

    Raises:
        ValueError: If views and backbone have not the same channels.
    """
    data = recipe.data
    channels = num_channels(config)
    if not {"image_mean", "image_std"} & recipe.given.keys():
        checkpoint = start or recipe.model.pretrained_backbone
        mean, std = _normalisation(config, checkpoint) or (data.image_mean, data.image_std)
        if len(mean) != channels:
            mean, std = [0.5] * channels, [0.5] * channels
        if (mean, std) != (data.image_mean, data.image_std):
            logger.info(f"`image_mean` {mean} and `image_std` {std} follow from the backbone, {channels} channels.")
            data.image_mean, data.image_std = mean, std
    if channels != len(data.image_mean):
        name = "model_args: {in_chans: ...}" if is_timm(config) else "num_channels"
        raise ValueError(
            f"`backbone_config.{name}` is {channels}, but `image_mean` names {len(data.image_mean)} channels: they "
            "must agree."
        )
    requested = {"global_crop_size": data.global_crop_size}
    if data.num_local_views:
        requested["local_crop_size"] = data.local_crop_size
    accepted = accepted_crop_sizes(config, requested)
    # The nearest size that is taken may be the backbone's own, far above.
    accepted = {field: min(size, accepted["global_crop_size"]) for field, size in accepted.items()}
    for field, size in requested.items():
        if accepted[field] != size:
            logger.info(
                f"`{field}` {size} becomes {accepted[field]}, the nearest size that the {config.model_type} backbone "
                "takes."
            )
            setattr(data, field, accepted[field])
    if len(set(accepted.values())) < len(set(requested.values())):
        logger.info(f"All views have {data.global_crop_size} pixels a side: the backbone does not take both sizes.")
    data.__post_init__()


def _normalisation(config: PreTrainedConfig, checkpoint: str | Path | None) -> tuple[list[float], list[float]] | None:
    """Mean and standard deviation that a checkpoint was trained with, None where it does not say."""
    if checkpoint is None:
        return None
    known = getattr(config, "pretrained_cfg", None)
    if known is not None:
        return list(known["mean"]), list(known["std"])
    try:
        processor = AutoImageProcessor.from_pretrained(checkpoint)
    except (OSError, ValueError):  # no processor beside the weights, or one that no installed class reads
        return None
    mean, std = getattr(processor, "image_mean", None), getattr(processor, "image_std", None)
    return (list(mean), list(std)) if mean and std else None
