"""Draws arrays as pictures for the page."""

import numpy as np
import torch
from PIL import Image

_SIDE = 448  # pixels on the longer side of pictures
_THUMBNAIL = 160
_HEAT = 0.6  # opacity of the heat map over the picture


def draw_pixels(pixels: torch.Tensor) -> Image.Image:
    """
    Draw the input of an encoder, stretched from black to white.

    Args:
        pixels (`torch.Tensor` of shape `(channels, height, width)`): Unless there are three channels, their mean is
            drawn.
    """
    pixels = pixels.float()
    pixels = pixels if len(pixels) == 3 else pixels.mean(0, keepdim=True).expand(3, -1, -1)
    return _enlarged(_unit(pixels).movedim(0, -1))


def draw_colours(colours: torch.Tensor) -> Image.Image:
    """Draw colours of patches, `(rows, columns, 3)`, in [0, 1]."""
    return _enlarged(colours)


def draw_heat(heat: torch.Tensor, picture: Image.Image) -> Image.Image:
    """
    Draw one number per patch as a colour from dark violet to yellow, over the picture in grey.

    Args:
        heat (`torch.Tensor` of shape `(rows, columns)`): The smallest number is dark, the largest bright.
        picture (`PIL.Image.Image`): A picture from [`draw_pixels`].
    """
    from matplotlib import colormaps

    light = _enlarged(torch.from_numpy(colormaps["inferno"](_unit(heat).numpy())[..., :3]))
    return Image.blend(
        picture.convert("L").convert("RGB"), light.resize(picture.size, Image.Resampling.NEAREST), _HEAT
    )


def draw_thumbnail(image: Image.Image | np.ndarray) -> Image.Image:
    """
    Draw a small picture of an image.

    Args:
        image (`PIL.Image.Image` or `np.ndarray`): An image from [`~data.decoding.decode_image`]. The channels of an
            array are averaged.
    """
    if isinstance(image, np.ndarray):
        image = Image.fromarray((_unit(torch.from_numpy(image.mean(-1))).numpy() * 255).astype(np.uint8))
    image = image.convert("RGB")
    scale = _THUMBNAIL / max(image.size)
    # Tiny images keep sharp pixels; photographs are resized smoothly.
    method = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    return image.resize([max(1, round(side * scale)) for side in image.size], method)


def _unit(values: torch.Tensor) -> torch.Tensor:
    """Values stretched to [0, 1]; zeros if all are equal."""
    values = values - values.min()
    return values / values.max().clamp_min(1e-12)


def _enlarged(colours: torch.Tensor) -> Image.Image:
    """A picture of `(rows, columns, 3)` in [0, 1] with sharp edges, at least `_SIDE` pixels on its longer side."""
    picture = Image.fromarray((colours.numpy() * 255).round().astype(np.uint8))
    scale = _SIDE / max(picture.size)
    if scale <= 1:
        return picture
    return picture.resize([max(1, round(side * scale)) for side in picture.size], Image.Resampling.NEAREST)
