"""Grids of images: patch features as colours, and held-out images beside their nearest neighbours."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ...system.run_folder import RunFolder
from .figure import BLUE, ORANGE, as_colours, class_name, new_subplots, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LONGEST_NAME = 14


def draw_patch_maps(run: str | Path, pixels: torch.Tensor, colours: torch.Tensor) -> Path:
    """
    Write `pictures/pca_maps.png`: images, and below each of them the principal components of its patch features.

    Args:
        run (`str` or `Path`): Run folder.
        pixels (`torch.Tensor` of shape `(num_images, channels, height, width)`): Input of the encoder, not normalised.
        colours (`torch.Tensor` of shape `(num_images, rows, columns, 3)`): Colours from
            [`~evaluation.patch_maps.PrincipalColours`].
    """
    num_images = len(pixels)
    figure, axes = new_subplots(max(4.0, 1.5 * num_images), 3.8, 2, num_images, squeeze=False)
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


def draw_neighbours(
    run: str | Path,
    queries: torch.Tensor,
    query_labels: list[int],
    neighbours: torch.Tensor,
    neighbour_labels: list[list[int]],
    class_names: list[str] | None,
) -> Path:
    """
    Write `pictures/neighbours.png`: a row for each held-out image, as the encoder sees it but not normalised,
    `(num_queries, channels, height, width)`, with its nearest training images `(num_queries, num_neighbours, channels,
    height, width)`. A neighbour of another class has a thick frame and a cross before the name of its class.
    """
    rows, columns = neighbours.shape[:2]
    figure, grid = new_subplots(1.1 * (columns + 1), 1.25 * rows + 0.4, rows, columns + 1, squeeze=False)
    for row in range(rows):
        own = query_labels[row]
        _show(grid[row, 0], queries[row], class_name(own, class_names, _LONGEST_NAME), "black", "bold")
        for column in range(columns):
            label = neighbour_labels[row][column]
            name = class_name(label, class_names, _LONGEST_NAME)
            if label == own:
                _show(grid[row, column + 1], neighbours[row, column], name, BLUE)
            else:
                _show(grid[row, column + 1], neighbours[row, column], f"\N{BALLOT X} {name}", ORANGE, "bold", 4)
    figure.suptitle(
        "Held-out image (left), its nearest training images; \N{BALLOT X} and a thick frame: another class",
        fontsize="medium",
    )
    return save_figure(figure, RunFolder(run).picture("neighbours"))


def draw_unlabelled_neighbours(
    run: str | Path, queries: torch.Tensor, neighbours: torch.Tensor, cosines: torch.Tensor
) -> Path:
    """
    Write `pictures/neighbours.png` as [`draw_neighbours`], for images without labels: above each neighbour stands the
    cosine of both embeddings, `(num_queries, num_neighbours)`.
    """
    rows, columns = neighbours.shape[:2]
    figure, grid = new_subplots(1.1 * (columns + 1), 1.25 * rows + 0.4, rows, columns + 1, squeeze=False)
    for row in range(rows):
        _show(grid[row, 0], queries[row], "held out", "black", "bold")
        for column in range(columns):
            _show(grid[row, column + 1], neighbours[row, column], f"{cosines[row, column].item():.2f}", BLUE)
    title = "Held-out image (left), the training images nearest to it, with the cosine of their embeddings"
    figure.suptitle(title, fontsize="medium")
    return save_figure(figure, RunFolder(run).picture("neighbours"))


def _show(
    axes: "Axes", pixels: torch.Tensor, title: str, colour: str, weight: str = "normal", frame: float = 1
) -> None:
    axes.imshow(as_colours(pixels))
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize="medium", color=colour, weight=weight, pad=3)
    axes.spines[:].set(color=colour, linewidth=frame)
