"""How Gaussian projections are."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...evaluation.embedding_statistics import EmbeddingStatistics
from .figure import BLUE, ORANGE, new_subplots, save_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_gaussianity(run: str | Path, statistics: EmbeddingStatistics) -> Path:
    """
    Write `pictures/gaussianity.png`, how Gaussian projections or embeddings are: slices beside N(0, 1), their
    quantiles, the covariance spectrum.
    """
    figure, ((top, other), (left, right)) = new_subplots(6.6, 6.2, 2, 2)
    grid = top.get_gridspec()
    for axes in (top, other):
        axes.remove()
    slices = figure.add_subplot(grid[0, :])
    _draw_slices(slices, statistics)
    _draw_quantiles(left, statistics)
    _draw_spectrum(right, statistics)
    for axes in (slices, left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return save_picture(figure, run, "gaussianity")


def _draw_slices(axes: "Axes", statistics: EmbeddingStatistics) -> None:
    worst, others = statistics.worst_slices[0], statistics.random_slices.numpy()
    limit = max(4.0, float(np.abs(worst.sample.numpy()).max()), float(np.abs(others).max()))
    bins = np.linspace(-limit, limit, 32).tolist()
    axes.hist(worst.sample.numpy(), bins, density=True, color=ORANGE, alpha=0.5, label="worst slice")
    for number, sample in enumerate(others):
        label = "random slices" if number == 0 else None
        axes.hist(sample, bins, density=True, histtype="step", color=BLUE, alpha=0.8, linewidth=1, label=label)
    points = np.linspace(-limit, limit, 1001)
    normal = np.exp(-(points**2) / 2) / np.sqrt(2 * np.pi)
    axes.plot(points, normal, color="black", linestyle="--", linewidth=1.5, label="N(0, 1)")
    axes.set(title="Slices of the projections", xlabel="value", ylabel="density")
    axes.set_ylim(0, 1.35 * axes.get_ylim()[1])  # room for the legend
    axes.legend(frameon=False, fontsize="small", loc="upper left")


def _draw_quantiles(axes: "Axes", statistics: EmbeddingStatistics) -> None:
    levels = statistics.quantile_levels
    normal = (2**0.5 * (2 * levels - 1).erfinv()).numpy()
    low, median, high = statistics.quantile_band.numpy()
    worst = np.quantile(statistics.worst_slices[0].sample.numpy(), levels.numpy())
    axes.fill_between(normal, low, high, color=BLUE, alpha=0.3, linewidth=0, label="5% to 95% of slices")
    axes.plot(normal, median, color=BLUE, linewidth=2, label="median slice")
    axes.plot(normal, worst, color=ORANGE, linewidth=2, label="worst slice")
    axes.plot(normal[[0, -1]], normal[[0, -1]], color="black", linestyle="--", linewidth=1.5)
    axes.set(title="Quantiles", xlabel="of N(0, 1)", ylabel="of the sample")
    axes.legend(frameon=False, fontsize="small", loc="upper left")


def _draw_spectrum(axes: "Axes", statistics: EmbeddingStatistics) -> None:
    eigenvalues = statistics.eigenvalues.numpy()
    present = eigenvalues[eigenvalues > 0]
    axes.plot(range(1, len(present) + 1), present, color=BLUE, marker="o", markersize=3, linewidth=1)
    axes.axhline(1, color="black", linestyle="--", linewidth=1.5)
    # At least two decades, so that the scatter of a Gaussian sample's eigenvalues looks small.
    low, high = (present.min(), present.max()) if len(present) else (1, 1)
    axes.set(xlabel="index", ylabel="eigenvalue of the covariance", yscale="log")
    axes.set(xlim=(0, len(eigenvalues) + 1), ylim=(min(0.1, low / 2), max(10, high * 2)))
    axes.set_title(f"Effective rank {statistics.effective_rank:.1f} of {len(eigenvalues)}")
    axes.minorticks_off()
