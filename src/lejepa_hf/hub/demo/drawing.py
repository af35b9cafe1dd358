"""Draws arrays as pictures for the page."""

import numpy as np
import torch
from PIL import Image

from ..pictures.figure import as_colours, stretched

_SIDE = 448  # pixels on the longer side of pictures
_THUMBNAIL = 160
_HEAT = 0.6  # opacity of the heat map over the picture


def draw_pixels(pixels: torch.Tensor) -> Image.Image:
    """Draw the input of an encoder, `(channels, height, width)`, as [`as_colours`] does."""
    return draw_colours(torch.from_numpy(as_colours(pixels)))


def draw_colours(colours: torch.Tensor) -> Image.Image:
    """Draw `(rows, columns, 3)` in [0, 1] with sharp edges, at least `_SIDE` pixels on the longer side."""
    picture = Image.fromarray((colours.numpy() * 255).round().astype(np.uint8))
    scale = _SIDE / max(picture.size)
    if scale <= 1:
        return picture
    return picture.resize([max(1, round(side * scale)) for side in picture.size], Image.Resampling.NEAREST)


def draw_heat(heat: torch.Tensor, picture: Image.Image) -> Image.Image:
    """Draw a number for each patch, `(rows, columns)`, in colours from violet to yellow, over the picture in grey."""
    from matplotlib import colormaps

    light = draw_colours(torch.from_numpy(colormaps["inferno"](stretched(heat).numpy())[..., :3]))
    light = light.resize(picture.size, Image.Resampling.NEAREST)
    return Image.blend(picture.convert("L").convert("RGB"), light, _HEAT)


def draw_thumbnail(image: Image.Image | np.ndarray) -> Image.Image:
    """Draw a small picture of an image or of an array, whose channels are averaged."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray((stretched(torch.from_numpy(image.mean(-1))).numpy() * 255).astype(np.uint8))
    image = image.convert("RGB")
    scale = _THUMBNAIL / max(image.size)
    # Tiny images keep sharp pixels; photographs are resized smoothly.
    method = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    return image.resize([max(1, round(side * scale)) for side in image.size], method)
