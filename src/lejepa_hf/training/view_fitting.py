"""Views fitted to the backbone that will see them: their channels, normalisation and sizes."""

import logging
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from transformers import AutoImageProcessor, PreTrainedConfig

from ..data.view_settings import ViewSettings
from ..model.architecture import is_timm, num_channels
from ..model.tracing import accepted_crop_sizes

logger = logging.getLogger("lejepa_hf")

Settings = TypeVar("Settings", bound=ViewSettings)


def fit_views(
    data: Settings, given: Collection[str], config: PreTrainedConfig, checkpoint: str | Path | None = None
) -> Settings:
    """
    Choose what `data`, in which the user set the fields `given`, leaves open, replace what the backbone does not
    accept, and log both. Mean and standard deviation that were not given are those of the checkpoint of a warm start,
    or 0.5 where there are not three channels. Crops get the nearest size that the backbone accepts.
    """
    mean, std = data.image_mean, data.image_std
    if not {"image_mean", "image_std"}.intersection(given):
        mean, std = _choose_normalisation(data, config, checkpoint)
    channels = num_channels(config)
    if channels != len(mean):
        name = "model_args: {in_chans: ...}" if is_timm(config) else "num_channels"
        raise ValueError(
            f"`backbone_config.{name}` is {channels}, but `image_mean` names {len(mean)} channels: they must agree."
        )
    return replace(_fit_sizes(data, config), image_mean=mean, image_std=std)


def _choose_normalisation(
    data: ViewSettings, config: PreTrainedConfig, checkpoint: str | Path | None
) -> tuple[list[float], list[float]]:
    channels = num_channels(config)
    mean, std = _normalisation(config, checkpoint) or (data.image_mean, data.image_std)
    if len(mean) != channels:
        mean, std = [0.5] * channels, [0.5] * channels
    if (mean, std) != (data.image_mean, data.image_std):
        logger.info(f"`image_mean` {mean} and `image_std` {std} follow from the backbone, {channels} channels.")
    return mean, std


def _fit_sizes(data: Settings, config: PreTrainedConfig) -> Settings:
    requested = {"global_crop_size": data.global_crop_size}
    if data.num_local_views:
        requested["local_crop_size"] = data.local_crop_size
    accepted = accepted_crop_sizes(config, requested)
    # The nearest accepted size may be the backbone's own, far above.
    accepted = {name: min(size, accepted["global_crop_size"]) for name, size in accepted.items()}
    nearest = f"the nearest size that the {config.model_type} backbone accepts"
    for name, size in requested.items():
        if accepted[name] != size:
            logger.info(f"`{name}` {size} becomes {accepted[name]}, {nearest}.")
    size = accepted["global_crop_size"]
    if len(set(accepted.values())) < len(set(requested.values())):
        logger.info(f"All views are {size} x {size} pixels: the backbone does not accept both sizes.")
    return replace(data, global_crop_size=size, local_crop_size=accepted.get("local_crop_size", data.local_crop_size))


def _normalisation(config: PreTrainedConfig, checkpoint: str | Path | None) -> tuple[list[float], list[float]] | None:
    """Mean and standard deviation that a checkpoint was trained with, None where it does not say."""
    if checkpoint is None:
        return None
    known = vars(config).get("pretrained_cfg")  # timm's
    if known is not None:
        return list(known["mean"]), list(known["std"])
    try:
        processor = AutoImageProcessor.from_pretrained(checkpoint, trust_remote_code=False).to_dict()
    except (OSError, ValueError):  # no processor beside the weights, or one that no installed class reads
        return None
    mean, std = processor.get("image_mean"), processor.get("image_std")
    return (list(mean), list(std)) if mean and std else None
