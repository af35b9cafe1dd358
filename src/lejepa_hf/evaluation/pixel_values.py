"""Decoded images -> what an encoder takes."""

import torch


def to_pixel_values(images: list, processor, num_channels: int, **settings) -> torch.Tensor:
    """
    Run an image processor over decoded images of any number of channels.

    Args:
        images (`list`): From [`~data.decoding.decode_image`] for `num_channels`: PIL images for 1 and 3, converted
            here to one channel or RGB; else `np.ndarray` of shape `(H, W, num_channels)`, uint8.
        processor (`ImageProcessor`): Resizes, crops, normalises. transformers' PIL backend, which is taken where
            torchvision is missing, cannot resize more than 4 channels.
        num_channels (`int`): C, those of the encoder.
        settings: Passed on to the processor, `do_normalize` for example.

    Returns:
        `torch.Tensor` of shape `(B, C, H, W)`.
    """
    if num_channels == 3:
        images = [image.convert("RGB") for image in images]
    else:
        settings["do_convert_rgb"] = False
        if num_channels == 1:
            images = [image.convert("L") for image in images]
        else:
            settings["input_data_format"] = "channels_last"  # guessed right for 1, 3 and 4 channels only
    return processor(images, return_tensors="pt", **settings)["pixel_values"]


def in_own_colours(pixel_values: torch.Tensor, processor) -> torch.Tensor:
    """
    Pixel values before they were normalised, if the processor says how: shown normalised, an image whose channels have
    means and deviations of their own is tinted.

    Args:
        pixel_values (`torch.Tensor` of shape `(..., C, H, W)`): From [`to_pixel_values`].
        processor (`ImageProcessor`): That made them.

    Returns:
        `torch.Tensor`: Same shape.
    """
    mean, std = getattr(processor, "image_mean", None), getattr(processor, "image_std", None)
    if not (mean and std and getattr(processor, "do_normalize", True)):
        return pixel_values
    mean, std = (torch.tensor(value).view(-1, 1, 1) for value in (mean, std))
    return pixel_values * std + mean
