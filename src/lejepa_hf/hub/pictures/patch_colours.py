"""Patch features as colours."""

from pathlib import Path

import torch

from ...system.run_folder import RunFolder
from .figure import as_colours, new_figure, save_figure


def draw_patch_maps(run: str | Path, pixels: torch.Tensor, colours: torch.Tensor) -> Path:
    """
    Write `pictures/pca_maps.png`: images, and below each of them the principal components of its patch features.

    Args:
        run (`str` or `Path`): Run folder.
        pixels (`torch.Tensor` of shape `(num_images, channels, height, width)`): Input of the encoder, not normalised.
        colours (`torch.Tensor` of shape `(num_images, rows, columns, 3)`): Colours from
            [`~evaluation.patch_maps.principal_colours`].
    """
    num_images = len(pixels)
    figure = new_figure(max(4.0, 1.5 * num_images), 3.8)
    axes = figure.subplots(2, num_images, squeeze=False)
    for column in range(num_images):
        axes[0, column].imshow(as_colours(pixels[column]))
        axes[1, column].imshow(colours[column].numpy(), interpolation="nearest")
    for one in axes.flat:
        one.set(xticks=[], yticks=[])
        one.spines[:].set_visible(False)
    rows, columns = colours.shape[1:3]
    figure.suptitle(
        f"Patch features, {rows} x {columns} an image: three principal components over all of them as colours",
        fontsize="medium",
    )
    return save_figure(figure, RunFolder(run).picture("pca_maps"))
