"""Decoded images -> pixel values, and back to colours that can be shown; the processor of a trained encoder."""

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import BaseImageProcessor, BitImageProcessor

from ..data.decoding import Pixels, check_size, stored_size
from ..data.pixel_ranges import PixelRange

_IMAGENET_MEAN, _IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def build_processor(
    crop_size: int,
    crop_ratio: float = 0.875,
    image_mean: list[float] | None = None,
    image_std: list[float] | None = None,
    pixel_range: PixelRange | None = None,
) -> BitImageProcessor:
    """
    The evaluation-time pipeline: shortest side to `crop_size / crop_ratio`, centre crop, normalise.

    Takes 8-bit images with as many channels as `image_mean` has numbers; images are converted to RGB only for 3. Pass
    images that have neither 1 nor 3 channels as arrays with `input_data_format="channels_last"`: transformers below
    5.21 reads PIL images of 2 and 4 channels only with its PIL backend, which treats the last channel as transparency.

    Args:
        crop_size (`int`): Side in pixels of the image that the encoder sees.
        crop_ratio (`float`, *optional*, defaults to 0.875): Share of the resized side that is kept, in (0, 1].
        image_mean (`list[float]`, *optional*): Mean of each channel, ImageNet's if missing.
        image_std (`list[float]`, *optional*): Standard deviation of each channel. If missing, ImageNet's for 3
            channels and 0.5 for others.
        pixel_range (`list[float]`, *optional*): Written into the processor's file for evaluations and users, who map
            arrays and 16-bit images from this range to 0 to 255; see [`~data.view_settings.ViewSettings`].
    """
    image_mean = image_mean or _IMAGENET_MEAN
    is_rgb = len(image_mean) == 3
    kept = {} if pixel_range is None else {"pixel_range": pixel_range}
    return BitImageProcessor(
        size={"shortest_edge": round(crop_size / crop_ratio)},
        crop_size={"height": crop_size, "width": crop_size},
        resample=3,
        image_mean=image_mean,
        image_std=image_std or (_IMAGENET_STD if is_rgb else [0.5] * len(image_mean)),
        do_convert_rgb=is_rgb,
        **kept,
    )


def check_enlargement(
    image: Pixels, processor: BaseImageProcessor, max_image_pixels: int | None = None, enlarge: int = 1
) -> None:
    """
    Refuse a decoded image that would have more pixels than `max_image_pixels` (PIL's limit if missing) after the
    processor's resize to `enlarge` times the usual size, as [`~data.decoding.check_size`] does: a thin image grows
    with its shorter side.
    """
    if shortest := _shortest_side(processor):
        width, height = stored_size(image)
        factor, after = enlarge * shortest / min(width, height), f" after the resize of {width} x {height}"
        check_size(round(factor * width), round(factor * height), max_image_pixels, after)


def _shortest_side(processor: BaseImageProcessor) -> float | None:
    """Side in pixels that the shorter side of each image gets, whatever the longer one becomes."""
    if timm_settings := getattr(processor, "data_config", None):
        return timm_settings["input_size"][-1] / timm_settings["crop_pct"]
    size = getattr(processor, "size", None) or {}
    is_bounded = size.get("longest_edge") or getattr(processor, "do_resize", None) is False
    return None if is_bounded else size.get("shortest_edge")


def join_pixel_values(parts: list[Tensor]) -> Tensor:
    """
    Batches of pixel values `(B, C, H, W)` as one. Processors that pad do so to the largest image of a batch, on the
    right and below, with zeros.
    """
    height, width = (max(part.shape[axis] for part in parts) for axis in (-2, -1))
    return torch.cat([F.pad(part, (0, width - part.shape[-1], 0, height - part.shape[-2])) for part in parts])


def to_pixel_values(images: list, processor: BaseImageProcessor, num_channels: int, **settings: object) -> Tensor:
    """
    Run an image processor over decoded images of any number of channels; its pixel values are `(B, C, H, W)`.

    Args:
        images (`list`): Images from [`~data.decoding.decode_image`] for `num_channels`: PIL images for 1 and 3,
            converted here to one channel or RGB; otherwise `np.ndarray` of shape `(H, W, num_channels)`, uint8.
        processor (`BaseImageProcessor`): Resizes, crops and normalises images. transformers' PIL backend, which is
            used where torchvision is missing, cannot resize more than 4 channels and treats the last of 2 or 4 as
            transparency.
        num_channels (`int`): Channels that the encoder takes, C.
        **settings: Arguments of the processor, such as `do_normalize`.
    """
    if num_channels in (1, 3):
        images = [image.convert("L" if num_channels == 1 else "RGB") for image in images]
    else:
        settings["input_data_format"] = "channels_last"  # otherwise guessed, and rightly only for 1 and 3 channels
    if num_channels != 3:
        settings["do_convert_rgb"] = False
    return processor(images, return_tensors="pt", **settings)["pixel_values"]


def height_and_width(pixel_values: Tensor) -> tuple[int, int]:
    """Height and width in pixels of a batch."""
    return pixel_values.shape[-2], pixel_values.shape[-1]


def in_own_colours(pixel_values: Tensor, processor: BaseImageProcessor) -> Tensor:
    """
    Undo the normalisation of pixel values `(..., C, H, W)`, if their processor has its mean and standard deviation: a
    normalised image looks tinted where its channels have different ones.
    """
    mean, std = getattr(processor, "image_mean", None), getattr(processor, "image_std", None)
    if not mean or not std or getattr(processor, "do_normalize", None) is False:
        return pixel_values
    mean, std = (torch.tensor(value).view(-1, 1, 1) for value in (mean, std))
    return pixel_values * std + mean
