"""Held-out images by class: a map of their embeddings, and the confusion matrix of their classification."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ...system.run_folder import RunFolder
from .figure import ORANGE, new_subplots, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_NUMBERED = 20
_NUM_LISTED = 12


def draw_embeddings(
    run: str | Path, embeddings: torch.Tensor, labels: torch.Tensor, class_names: list[str] | None
) -> Path:
    """
    Write `pictures/embeddings.png`: the first 2,000 held-out embeddings `(num_images, dim)` in two dimensions by
    t-SNE, coloured by labels that training never saw.
    """
    from matplotlib import colormaps
    from sklearn.manifold import TSNE

    shown, numbers = embeddings[:2000].numpy(), labels[:2000].numpy()
    perplexity = min(30, (len(numbers) - 1) / 3)
    points = TSNE(init="pca", perplexity=perplexity, metric="cosine", random_state=0).fit_transform(shown)
    figure, axes = new_subplots(7, 6)
    classes = sorted(set(numbers.tolist()))
    colours = colormaps["tab10" if len(classes) <= 10 else "turbo"].resampled(len(classes))
    for number, label in enumerate(classes):
        chosen = points[numbers == label]
        name = class_names[label] if class_names else str(label)
        axes.scatter(chosen[:, 0], chosen[:, 1], s=16, color=colours(number), label=name, linewidths=0)
        if len(classes) <= 30:
            # One of the class's own points: the mean would lie between its clusters.
            centre = min(chosen.tolist(), key=lambda point: (((chosen - point) ** 2).sum(1) ** 0.5).sum())
            box = {"boxstyle": "round,pad=0.2", "facecolor": "white", "alpha": 0.8, "edgecolor": "none"}
            axes.annotate(name, centre, ha="center", va="center", weight="bold", bbox=box)
    axes.set(title="Held-out images by t-SNE of their embeddings, coloured by label", xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    return save_figure(figure, RunFolder(run).picture("embeddings"))


def draw_confusion(
    run: str | Path, labels: torch.Tensor, predictions: torch.Tensor, class_names: list[str] | None
) -> Path:
    """
    Write `pictures/confusion.png`: confusion of held-out images by their true and predicted class numbers, in percent
    of each true class. A matrix with its numbers; for more than 20 classes without numbers, beside a list of the
    largest confusions.
    """
    classes = sorted({*labels.tolist(), *predictions.tolist()})
    names = [class_names[label] if class_names else str(label) for label in classes]
    shares = _shares(labels, predictions, classes)
    accuracy = (labels == predictions).double().mean().item()
    is_numbered = len(classes) <= _MOST_NUMBERED
    side = max(4.5, 0.5 * len(classes) + 1.5) if is_numbered else 5.5
    width, columns = (side, 1) if is_numbered else (10, 2)
    figure, ((axes, *others),) = new_subplots(width, side, 1, columns, squeeze=False)
    axes.imshow(100 * shares, cmap="Blues", vmin=0, vmax=100, interpolation="nearest")
    axes.set(xlabel="taken for", ylabel="true class", xticks=[], yticks=[])
    if is_numbered:
        _write_numbers(axes, shares, names)
    else:
        axes.set_title("Darker is more, the diagonal is right", fontsize="medium")
        _list_largest(others[0], shares, names)
    figure.suptitle(f"Held-out images by k-NN: {100 * accuracy:.1f} % right. Percent of each true class")
    return save_figure(figure, RunFolder(run).picture("confusion"))


def _shares(labels: torch.Tensor, predictions: torch.Tensor, classes: list[int]) -> np.ndarray:
    """Rows that sum to 1, or to 0 for a class that is only predicted."""
    counts = np.zeros((len(classes), len(classes)))
    places = (np.searchsorted(classes, labels.numpy()), np.searchsorted(classes, predictions.numpy()))
    np.add.at(counts, places, 1)
    return counts / counts.sum(1, keepdims=True).clip(min=1)


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


def _list_largest(axes: "Axes", shares: np.ndarray, names: list[str]) -> None:
    off_diagonal = shares * (1 - np.eye(len(shares)))
    order = np.argsort(-off_diagonal, axis=None, kind="stable")[:_NUM_LISTED]
    pairs = [divmod(int(place), len(names)) for place in order]
    pairs = [(row, column) for row, column in pairs if off_diagonal[row, column] > 0]
    axes.barh(range(len(pairs)), [100 * off_diagonal[pair] for pair in pairs], color=ORANGE)
    axes.set_yticks(range(len(pairs)), labels=[f"{names[row]} → {names[column]}" for row, column in pairs])
    axes.invert_yaxis()
    axes.set(xlabel="% of the true class")
    axes.set_title("Largest confusions", fontsize="medium")
    axes.spines[["top", "right"]].set_visible(False)
