"""Held-out images and the training images nearest to them."""

from pathlib import Path
from typing import TYPE_CHECKING

from ...system.run_folder import RunFolder
from .figure import BLUE, ORANGE, as_colours, new_figure, save_figure

if TYPE_CHECKING:
    import torch
    from matplotlib.axes import Axes

_LONGEST_NAME = 14


def draw_neighbours(
    run: str | Path,
    queries: "torch.Tensor",
    query_labels: list[int],
    neighbours: "torch.Tensor",
    neighbour_labels: list[list[int]],
    class_names: list[str] | None,
) -> Path:
    """
    Write `pictures/neighbours.png`: a row for each held-out image, as the encoder sees it but not normalised,
    `(num_queries, channels, height, width)`, with its nearest training images `(num_queries, num_neighbours, channels,
    height, width)`. A neighbour of another class has a thick frame and a cross before the name of its class.
    """
    rows, columns = neighbours.shape[:2]
    figure = new_figure(1.1 * (columns + 1), 1.25 * rows + 0.4)
    grid = figure.subplots(rows, columns + 1, squeeze=False)
    for row in range(rows):
        own = query_labels[row]
        _show(grid[row, 0], queries[row], _name(own, class_names), "black", "bold")
        for column in range(columns):
            label = neighbour_labels[row][column]
            name = _name(label, class_names)
            if label == own:
                _show(grid[row, column + 1], neighbours[row, column], name, BLUE)
            else:
                _show(grid[row, column + 1], neighbours[row, column], f"\N{BALLOT X} {name}", ORANGE, "bold", 4)
    figure.suptitle(
        "Held-out image (left), its nearest training images; \N{BALLOT X} and a thick frame: another class",
        fontsize="medium",
    )
    return save_figure(figure, RunFolder(run).picture("neighbours"))


def _show(
    axes: "Axes", pixels: "torch.Tensor", title: str, colour: str, weight: str = "normal", frame: float = 1
) -> None:
    axes.imshow(as_colours(pixels))
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize="medium", color=colour, weight=weight, pad=3)
    axes.spines[:].set(color=colour, linewidth=frame)


def _name(label: int, class_names: list[str] | None) -> str:
    name = class_names[label] if class_names else str(label)
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"
