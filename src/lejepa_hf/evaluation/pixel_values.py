"""Decoded images -> pixel values, and back to colours that can be shown."""

from typing import Any

import torch
from torch import Tensor
from transformers import BaseImageProcessor


def to_pixel_values(images: list, processor: BaseImageProcessor, num_channels: int, **settings: object) -> Tensor:
    """
    Run an image processor over decoded images of any number of channels; its pixel values are `(B, C, H, W)`.

    Args:
        images (`list`): Images from [`~data.decoding.decode_image`] for `num_channels`: PIL images for 1 and 3,
            converted here to one channel or RGB; otherwise `np.ndarray` of shape `(H, W, num_channels)`, uint8.
        processor (`BaseImageProcessor`): Resizes, crops and normalises images. transformers' PIL backend, which is
            used where torchvision is missing, cannot resize more than 4 channels and takes the last of 2 or 4 for
            transparency.
        num_channels (`int`): Channels that the encoder takes, C.
        **settings: Arguments of the processor, such as `do_normalize`.
    """
    if num_channels in (1, 3):
        images = [image.convert("L" if num_channels == 1 else "RGB") for image in images]
    else:
        settings["input_data_format"] = "channels_last"  # guessed right for 1 and 3 channels, by some versions for 4
    if num_channels != 3:
        settings["do_convert_rgb"] = False
    return processor(images, return_tensors="pt", **settings)["pixel_values"]


def setting_of(processor: BaseImageProcessor, name: str) -> Any:  # noqa: ANN401
    """A setting from the processor's file, None if it has none of this name."""
    return getattr(processor, name, None)


def pixel_range(processor: BaseImageProcessor) -> list[float] | None:
    """Values that stand for black and white in arrays and 16-bit images, if the processor's file has them."""
    return setting_of(processor, "pixel_range")


def height_and_width(pixel_values: Tensor) -> tuple[int, int]:
    """Height and width in pixels of a batch."""
    return pixel_values.shape[-2], pixel_values.shape[-1]


def in_own_colours(pixel_values: Tensor, processor: BaseImageProcessor) -> Tensor:
    """
    Undo the normalisation of pixel values `(..., C, H, W)`, if their processor has its mean and standard deviation: a
    normalised image looks tinted where its channels have different ones.
    """
    mean, std = setting_of(processor, "image_mean"), setting_of(processor, "image_std")
    if not mean or not std or setting_of(processor, "do_normalize") is False:
        return pixel_values
    mean, std = (torch.tensor(value).view(-1, 1, 1) for value in (mean, std))
    return pixel_values * std + mean
