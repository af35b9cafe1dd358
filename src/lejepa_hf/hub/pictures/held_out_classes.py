"""The confusion matrix of the classification of held-out images."""

from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np
import torch

from .figure import BLUE, ORANGE, class_name, new_subplots, save_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import LinearSegmentedColormap

_LONGEST_NAME = 20  # beside a matrix, which longer ones would leave no room
_MOST_NUMBERED = 20
_MOST_ROWS = 500  # as many as the picture has pixels for
_NUM_LISTED = 12


def draw_confusion(
    run: str | Path, labels: torch.Tensor, predictions: torch.Tensor, class_names: list[str] | None
) -> Path:
    """
    Write `pictures/confusion.png`: confusion of held-out images by their true and predicted class numbers, in percent
    of each true class. A matrix with its numbers; for more than 20 classes without numbers, beside a list of the
    largest confusions.
    """
    classes = np.union1d(labels.numpy(), predictions.numpy())
    names = [class_name(label, class_names, _LONGEST_NAME) for label in classes.tolist()]
    confusions = _Confusions(labels, predictions, classes)
    shares = confusions.matrix()
    accuracy = (labels == predictions).double().mean().item()
    is_numbered = len(classes) <= _MOST_NUMBERED
    side = max(4.5, 0.5 * len(classes) + 1.5) if is_numbered else 5.5
    width, columns = (side, 1) if is_numbered else (10, 2)
    figure, ((axes, *others),) = new_subplots(width, side, 1, columns, squeeze=False)
    axes.imshow(100 * shares, cmap=_transparent_to(BLUE), vmin=0, vmax=100, interpolation="nearest")
    axes.set(xlabel="taken for", ylabel="true class", xticks=[], yticks=[])
    if is_numbered:
        _write_numbers(axes, shares, names)
    else:
        axes.set_title("Stronger blue is more, the diagonal is right", fontsize="medium")
        _list_largest(others[0], confusions.largest(_NUM_LISTED), names)
    title = f"Held-out images by k-NN: {100 * accuracy:.1f} % right. Percent of each true class"
    figure.suptitle(fill(title, int(11 * width)))
    return save_picture(figure, run, "confusion")


def _transparent_to(colour: str) -> "LinearSegmentedColormap":
    """Colours through which the background is seen, a light or a dark one: the less, the larger the value."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("shares", [(colour, 0.0), (colour, 1.0)])


class _Confusions:
    """
    For each pair of a true and a predicted class that occurs, the pair's share of the true class. A matrix of all
    pairs would not fit into memory for tens of thousands of classes.
    """

    def __init__(self, labels: torch.Tensor, predictions: torch.Tensor, classes: np.ndarray) -> None:
        self.num_classes = len(classes)
        true, predicted = (np.searchsorted(classes, of.numpy()) for of in (labels, predictions))
        pairs, counts = np.unique(true * self.num_classes + predicted, return_counts=True)
        self.true, self.predicted = np.divmod(pairs, self.num_classes)
        self.shares = counts / np.bincount(true, minlength=self.num_classes)[self.true]

    def matrix(self) -> np.ndarray:
        """
        Rows that sum to 1, or to 0 for a class that is only predicted. Of many classes each row and column stands for
        several that follow each other, and shows their mean.
        """
        size = min(self.num_classes, _MOST_ROWS)
        rows, columns = (of * size // self.num_classes for of in (self.true, self.predicted))
        matrix = np.zeros((size, size))
        np.add.at(matrix, (rows, columns), self.shares)
        in_row = np.bincount(np.unique(self.true) * size // self.num_classes, minlength=size)
        return matrix / in_row[:, None].clip(min=1)

    def largest(self, number: int) -> list[tuple[int, int, float]]:
        """True class, predicted class and share of the pairs of two classes, the largest first."""
        wrong = np.flatnonzero(self.true != self.predicted)
        order = wrong[np.argsort(-self.shares[wrong], kind="stable")[:number]]
        return [(int(self.true[at]), int(self.predicted[at]), float(self.shares[at])) for at in order]


def _write_numbers(axes: "Axes", shares: np.ndarray, names: list[str]) -> None:
    is_long = max(map(len, names)) > 3
    axes.set_xticks(range(len(names)), labels=names, rotation=90 if is_long else 0)
    axes.set_yticks(range(len(names)), labels=names)
    for row, of_class in enumerate(shares):
        for column, share in enumerate(of_class):
            if share > 0:
                colour = "white" if share > 0.5 else "black"
                number = f"{100 * share:.0f}" if share >= 0.005 else "<1"
                axes.text(column, row, number, ha="center", va="center", color=colour, fontsize="medium")


def _list_largest(axes: "Axes", largest: list[tuple[int, int, float]], names: list[str]) -> None:
    axes.barh(range(len(largest)), [100 * share for _, _, share in largest], color=ORANGE)
    axes.set_yticks(range(len(largest)), labels=[f"{names[row]} → {names[column]}" for row, column, _ in largest])
    axes.invert_yaxis()
    axes.set(xlabel="% of the true class")
    axes.set_title("Largest confusions", fontsize="medium")
    axes.spines[["top", "right"]].set_visible(False)
