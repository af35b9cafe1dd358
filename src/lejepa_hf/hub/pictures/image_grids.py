"""Grids of images: patch features as colours, and held-out images beside their nearest neighbours."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from .figure import BLUE, ORANGE, as_colours, class_name, new_subplots, save_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LONGEST_NAME = 12


def draw_patch_maps(
    run: str | Path, pixels: torch.Tensor, colours: torch.Tensor, untrained: torch.Tensor | None = None
) -> Path:
    """
    Write `pictures/pca_maps.png`: images, below each of them the principal components of its patch features, and below
    these, for comparison, those of the same network without training.

    Args:
        run (`str` or `Path`): Run folder.
        pixels (`torch.Tensor` of shape `(num_images, channels, height, width)`): Input of the encoder, not normalised.
        colours (`torch.Tensor` of shape `(num_images, rows, columns, 3)`): Colours from
            [`~evaluation.patch_maps.PrincipalColours`].
        untrained (`torch.Tensor`, *optional*): The same of the untrained encoder; its row is left out if missing.
    """
    rows = {"image": [as_colours(image) for image in pixels], "trained": list(colours.numpy())}
    if untrained is not None:
        rows["untrained"] = list(untrained.numpy())
    figure, grid = new_subplots(
        max(4.0, 1.15 * len(pixels) + 0.4), 1.2 * len(rows) + 0.4, len(rows), len(pixels), squeeze=False
    )
    for of_row, (name, images) in zip(grid, rows.items(), strict=True):
        for axes, image in zip(of_row, images, strict=True):
            axes.imshow(image, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        of_row[0].set_ylabel(name, fontsize="large")
    figure.suptitle("Three principal components of patch features as colours", fontsize="medium")
    return save_picture(figure, run, "pca_maps")


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
    figure, grid = new_subplots(1.2 * (columns + 1), 1.4 * rows + 0.4, rows, columns + 1, squeeze=False)
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
    return save_picture(figure, run, "neighbours")


def draw_unlabelled_neighbours(
    run: str | Path, queries: torch.Tensor, neighbours: torch.Tensor, cosines: torch.Tensor
) -> Path:
    """
    Write `pictures/neighbours.png` as [`draw_neighbours`], for images without labels: above each neighbour stands the
    cosine of both embeddings, `(num_queries, num_neighbours)`.
    """
    rows, columns = neighbours.shape[:2]
    figure, grid = new_subplots(1.2 * (columns + 1), 1.4 * rows + 0.4, rows, columns + 1, squeeze=False)
    for row in range(rows):
        _show(grid[row, 0], queries[row], "held out", "black", "bold")
        for column in range(columns):
            _show(grid[row, column + 1], neighbours[row, column], f"{cosines[row, column].item():.2f}", BLUE)
    title = "Held-out image (left), the training images nearest to it, with the cosine of their embeddings"
    figure.suptitle(title, fontsize="medium")
    return save_picture(figure, run, "neighbours")


def _show(
    axes: "Axes", pixels: torch.Tensor, title: str, colour: str, weight: str = "normal", frame: float = 1
) -> None:
    axes.imshow(as_colours(pixels))
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=11, color=colour, weight=weight, pad=3)
    axes.spines[:].set(color=colour, linewidth=frame)
