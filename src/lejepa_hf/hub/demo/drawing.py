"""Arrays -> pictures for the page."""

import numpy as np
import torch
from PIL import Image

_SIDE = 448  # of pictures, in pixels; patches stay squares with sharp edges
_THUMBNAIL = 160
_HEAT = 0.6  # the rest is the picture below


def draw_pixels(pixels: torch.Tensor) -> Image.Image:
    """
    What an encoder sees, stretched from black to white.

    Args:
        pixels (`torch.Tensor` of shape `(channels, height, width)`): Of other than three channels the mean is shown.
    """
    pixels = pixels.float()
    pixels = pixels if len(pixels) == 3 else pixels.mean(0, keepdim=True).expand(3, -1, -1)
    return _enlarged(_unit(pixels).movedim(0, -1))


def draw_colours(colours: torch.Tensor) -> Image.Image:
    """Colours of patches, `(rows, columns, 3)`, in [0, 1]."""
    return _enlarged(colours)


def draw_heat(heat: torch.Tensor, picture: Image.Image) -> Image.Image:
    """
    Numbers of patches as light from dark violet to yellow, over the grey picture.

    Args:
        heat (`torch.Tensor` of shape `(rows, columns)`): The smallest becomes dark, the largest bright.
        picture (`PIL.Image.Image`): From [`draw_pixels`].
    """
    from matplotlib import colormaps

    light = _enlarged(torch.from_numpy(colormaps["inferno"](_unit(heat).numpy())[..., :3]))
    return Image.blend(
        picture.convert("L").convert("RGB"), light.resize(picture.size, Image.Resampling.NEAREST), _HEAT
    )


def draw_thumbnail(image: Image.Image | np.ndarray) -> Image.Image:
    """
    A small picture of an image.

    Args:
        image (`PIL.Image.Image` or `np.ndarray`): From [`~data.decoding.decode_image`]; an array of many channels is
            shown as their mean.
    """
    if isinstance(image, np.ndarray):
        image = Image.fromarray((_unit(torch.from_numpy(image.mean(-1))).numpy() * 255).astype(np.uint8))
    image = image.convert("RGB")
    scale = _THUMBNAIL / max(image.size)
    # A scan of 8 x 8 pixels is to look like one; photographs are made smaller without jagged lines.
    method = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    return image.resize([max(1, round(side * scale)) for side in image.size], method)


def _unit(values: torch.Tensor) -> torch.Tensor:
    """From 0 to 1; zeros where all are the same."""
    values = values - values.min()
    return values / values.max().clamp_min(1e-12)


def _enlarged(colours: torch.Tensor) -> Image.Image:
    """`(rows, columns, 3)` in [0, 1] -> a picture, `_SIDE` pixels on its longer side at least."""
    picture = Image.fromarray((colours.numpy() * 255).round().astype(np.uint8))
    scale = _SIDE / max(picture.size)
    if scale <= 1:
        return picture
    return picture.resize([max(1, round(side * scale)) for side in picture.size], Image.Resampling.NEAREST)
