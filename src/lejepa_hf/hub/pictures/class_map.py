"""A map of held-out images with labels: points coloured by class, a legend with an image of each class beside it."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from .embedding_map import place_embeddings, show_images
from .figure import as_colours, class_name, new_subplots, save_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PixelsOf = Callable[[list[int]], torch.Tensor]

_MOST_IN_LEGEND = 20
_MOST_NAMED = 30  # of more classes, on the map
_ROWS = 10  # of a legend, at least
_LONGEST_NAME = 14
_GAP = 4.0  # pixels between two names
_HEIGHT, _MAP, _LEGEND = 5.4, 5.4, 2.4  # inches


def draw_embeddings(
    run: str | Path,
    embeddings: torch.Tensor,
    labels: torch.Tensor,
    class_names: list[str] | None,
    pixels_of: PixelsOf | None = None,
) -> Path | None:
    """
    Write `pictures/embeddings.png`: the first 2,000 held-out embeddings `(num_images, dim)` in two dimensions by
    t-SNE, coloured by labels that training never saw. None as in [`place_embeddings`].

    Up to 20 classes have a legend with an image of each, and are named on the map where no name covers another. Of
    more classes, whose colours cannot be told apart, images themselves are shown, framed in the colour of their class.

    Args:
        run (`str` or `Path`): Run folder.
        embeddings (`torch.Tensor` of shape `(num_images, dim)`): Embeddings of held-out images.
        labels (`torch.Tensor` of shape `(num_images,)`): Their class numbers.
        class_names (`list[str]`, *optional*): Names by class number.
        pixels_of (`Callable`, *optional*): As in [`~hub.pictures.embedding_map.draw_image_map`]; no images if missing.
    """
    placed = place_embeddings(embeddings)
    if placed is None:
        return None
    points, numbers = placed
    classes = _Classes(points, labels.numpy()[numbers], class_names)
    if len(classes.labels) <= _MOST_IN_LEGEND:
        figure, (axes, legend) = new_subplots(
            _MAP + _LEGEND, _HEIGHT, 1, 2, gridspec_kw={"width_ratios": [_MAP, _LEGEND]}
        )
        _draw_points(axes, classes)
        _draw_legend(legend, classes, numbers, pixels_of)
        figure.draw_without_rendering()  # places the axes, in which names are then measured
        _name_classes(axes, classes, len(classes.labels))
    else:
        figure, axes = new_subplots(7.2, 7.2)
        _draw_points(axes, classes)
        if pixels_of is not None:
            show_images(axes, points, numbers, pixels_of, classes.colours[classes.places])
        else:
            figure.draw_without_rendering()
            _name_classes(axes, classes, _MOST_NAMED)
    figure.suptitle(
        f"Held-out images by t-SNE of their embeddings, coloured by {len(classes.labels)} labels", fontsize="medium"
    )
    return save_picture(figure, run, "embeddings")


class _Classes:
    """Classes of placed images: `labels` ascending, and for each image the place of its class among them."""

    def __init__(self, points: np.ndarray, labels: np.ndarray, class_names: list[str] | None) -> None:
        from matplotlib import colormaps

        self.points = points
        self.labels, self.places = np.unique(labels, return_inverse=True)
        number = len(self.labels)
        colours = "tab10" if number <= 10 else "tab20" if number <= _MOST_IN_LEGEND else "turbo"
        self.colours = np.array(colormaps[colours].resampled(number)(range(number)))
        self.names = [class_name(label, class_names, _LONGEST_NAME) for label in self.labels.tolist()]

    def members(self, place: int) -> np.ndarray:
        """Numbers of the images of a class, the most central one first: their mean would lie between clusters."""
        found = np.flatnonzero(self.places == place)
        chosen = self.points[found]
        distances = [np.sqrt(((chosen - point) ** 2).sum(1)).sum() for point in chosen]
        centre = chosen[int(np.argmin(distances))]
        return found[np.argsort(((chosen - centre) ** 2).sum(1), kind="stable")]

    def by_size(self) -> list[int]:
        """Places of the classes, the one with the most images first."""
        return np.argsort(-np.bincount(self.places), kind="stable").tolist()


def _draw_points(axes: "Axes", classes: _Classes) -> None:
    axes.scatter(classes.points[:, 0], classes.points[:, 1], s=16, color=classes.colours[classes.places], linewidths=0)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def _draw_legend(axes: "Axes", classes: _Classes, numbers: np.ndarray, pixels_of: PixelsOf | None) -> None:
    """A row for each class: its colour, its most central image, its name."""
    number = len(classes.labels)
    rows = max(_ROWS, number)
    central = [int(numbers[classes.members(place)[0]]) for place in range(number)]
    images = pixels_of(central) if pixels_of is not None else [None] * number
    for row, (pixels, name) in enumerate(zip(images, classes.names, strict=True)):
        axes.scatter(0.5, row + 0.5, s=60, color=[classes.colours[row]], linewidths=0)
        if pixels is not None:
            axes.imshow(as_colours(pixels), extent=(1.0, 1.9, row + 0.95, row + 0.05), zorder=2)
        axes.text(2.1 if pixels is not None else 1.0, row + 0.5, name, va="center", fontsize=11)
    axes.set(xlim=(0, rows * _LEGEND / _HEIGHT), ylim=(rows, 0), aspect="equal", anchor="NW")
    axes.axis("off")


def _name_classes(axes: "Axes", classes: _Classes, most: int) -> None:
    """
    Write names at their classes' own images, as central as possible, so that no name covers another. A class for which
    no place is left has its name in the legend only.
    """
    taken: list[tuple[np.ndarray, np.ndarray]] = []  # centre, and half of width and height, in pixels
    for place in classes.by_size()[:most]:
        points = classes.points[classes.members(place)]
        text = axes.text(
            points[0, 0], points[0, 1], classes.names[place], ha="center", va="center", weight="bold", in_layout=False
        )
        text.set_bbox({"boxstyle": "round,pad=0.2", "facecolor": "white", "alpha": 0.8, "edgecolor": "none"})
        size = text.get_window_extent()
        half = np.array([size.width, size.height]) / 2 + _GAP
        centres = axes.transData.transform(points)
        free = [
            number
            for number, centre in enumerate(centres)
            if all((np.abs(centre - other) >= half + its).any() for other, its in taken)
        ]
        if free:
            text.set_position(points[free[0]])
            taken.append((centres[free[0]], half))
        else:
            text.remove()
