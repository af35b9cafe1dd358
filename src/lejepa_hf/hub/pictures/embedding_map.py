"""Embeddings in two dimensions, placed by t-SNE, and a map on which unlabelled images themselves are seen."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from .figure import GRAY, as_colours, new_subplots, save_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

logger = logging.getLogger("lejepa_hf")

MOST_ON_A_MAP = 2000  # embeddings
_SAME_DIRECTION = 1e-5  # distances below it are rounding
_MOST_PICTURES = 80
_PER_SIDE = 14  # pictures that fit beside each other


def draw_image_map(
    run: str | Path, embeddings: torch.Tensor, pixels_of: Callable[[list[int]], torch.Tensor]
) -> Path | None:
    """
    Write `pictures/embeddings.png` for images without labels: as [`place_embeddings`], a dot for each image and, where
    there is room, the image itself.

    Args:
        run (`str` or `Path`): Run folder.
        embeddings (`torch.Tensor` of shape `(num_images, dim)`): Embeddings of held-out images.
        pixels_of (`Callable`): Images by the numbers of their embeddings, `(number, channels, height, width)`, as the
            encoder sees them but not normalised.
    """
    placed = place_embeddings(embeddings)
    if placed is None:
        return None
    points, numbers = placed
    figure, axes = new_subplots(7.2, 7.2)
    axes.scatter(points[:, 0], points[:, 1], s=9, color=GRAY, linewidths=0)
    show_images(axes, points, numbers, pixels_of)
    axes.set_title("Held-out images by t-SNE of their embeddings")
    return save_picture(figure, run, "embeddings")


def show_images(
    axes: "Axes",
    points: np.ndarray,
    numbers: np.ndarray,
    pixels_of: Callable[[list[int]], torch.Tensor],
    colours: np.ndarray | None = None,
) -> None:
    """
    Show images where there is room around their `points` `(num_placed, 2)`, and no axes. `numbers` and `pixels_of` are
    as in [`draw_image_map`]; `colours` `(num_placed, 4)` are those of frames around the images.
    """
    middle, side = (points.max(0) + points.min(0)) / 2, float(np.ptp(points, axis=0).max()) / _PER_SIDE
    chosen = apart(points, side)[:_MOST_PICTURES]
    half = np.array([-side / 2, side / 2])
    for at, pixels in zip(chosen, pixels_of([int(numbers[at]) for at in chosen]), strict=True):
        (left, right), (bottom, top) = points[at][:, None] + half
        axes.imshow(as_colours(pixels), extent=(left, right, bottom, top), zorder=2)
        if colours is not None:
            axes.plot([left, right, right, left, left], [bottom, bottom, top, top, bottom], color=colours[at], lw=2)
    reach = (_PER_SIDE + 1.5) * side / 2
    axes.set(xticks=[], yticks=[], aspect="equal")
    axes.set(xlim=(middle[0] - reach, middle[0] + reach), ylim=(middle[1] - reach, middle[1] + reach))
    axes.spines[:].set_visible(False)


def apart(points: np.ndarray, side: float) -> list[int]:
    """Numbers of points, in their order, around which squares of this side do not overlap."""
    chosen: list[int] = []
    for number, point in enumerate(points):
        if not chosen or (np.abs(points[chosen] - point).max(1) >= side).all():
            chosen.append(number)
    return chosen


def place_embeddings(embeddings: torch.Tensor) -> tuple[np.ndarray, np.ndarray] | None:
    """
    The places `(num_placed, 2)` by t-SNE of the first 2,000 embeddings `(num_images, dim)`, and their numbers. Those
    that are zero, NaN or infinite have no place. None, with a warning, if fewer than two have a place, or all have the
    same.
    """
    directions, has_one = _directions(embeddings[:MOST_ON_A_MAP])
    left_out = int((~has_one).sum())
    if left_out:
        logger.warning(f"pictures/embeddings.png: {left_out} embeddings that are zero, NaN or infinite are left out.")
    if len(directions) < 2 or (directions - directions[0]).abs().max() < _SAME_DIRECTION:
        logger.warning("pictures/embeddings.png is left out: the embeddings of all images have one direction or none.")
        return None
    return _map(directions), torch.nonzero(has_one)[:, 0].numpy()


def _directions(embeddings: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit vectors, in fp64, of those rows that have a direction, and which rows these are."""
    directions = F.normalize(embeddings.double(), dim=1)
    has_one = directions.isfinite().all(1) & (directions != 0).any(1)
    return directions[has_one], has_one


def _map(directions: torch.Tensor) -> np.ndarray:
    """t-SNE by cosines, `(num_images, 2)`, of unit vectors in fp64 that are not all the same."""
    from sklearn.manifold import TSNE

    perplexity = min(30, (len(directions) - 1) / 3)
    tsne = TSNE(init=_start(directions), perplexity=perplexity, metric="cosine", random_state=0)
    return tsne.fit_transform(directions.float().numpy())


def _start(directions: torch.Tensor) -> np.ndarray:
    """
    The first two principal components, scaled as scikit-learn does with `init="pca"`. Its own, in fp32, become NaN for
    vectors that hardly differ, and t-SNE then ends the process by a segmentation fault.
    """
    centred = directions - directions.mean(0)
    axes = torch.linalg.eigh(centred.T @ centred)[1][:, -2:].flip(1)
    axes *= axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
    components = F.pad(centred @ axes, (0, 2 - axes.shape[1]))
    return (1e-4 * components / components[:, 0].std()).float().numpy()
