"""Pictures of a run, made from its files."""

import json
import re
from pathlib import Path

_NULL_MEAN = 1.05  # SIGReg of normal projections
_BLUE, _ORANGE, _GRAY = "#0072b2", "#d55e00", "#777777"  # told apart by colour-blind eyes
# Told apart without colour as well.
_CURVES = (
    (_BLUE, "-", "o"),
    (_ORANGE, "--", "s"),
    (_GRAY, ":", "D"),
    ("#009e73", "-.", "^"),
    ("#cc79a7", "-", "v"),
    ("#e69f00", "--", "P"),
)
_MAX_LISTED_VIEWS = 8


def _figure(width: float, height: float):
    # Not pyplot, which would choose a window system and keep the figure open in the notebook this is called from.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def read_metrics(run: str | Path) -> list[dict[str, float]]:
    """Rows of `metrics.jsonl` that hold a loss, in the order of their steps; a line torn by a kill is left out."""
    path = Path(run) / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    return [row for row in map(json.loads, (line for line in lines if line.endswith("}"))) if "prediction_loss" in row]


def draw_losses(run: str | Path) -> Path | None:
    """
    Both parts of the loss over steps, SIGReg beside its value for a perfect normal.

    Args:
        run (`str` or `Path`): Run folder with `metrics.jsonl`.

    Returns:
        `Path`: `pictures/losses.png` in the run folder, None where nothing was logged.
    """
    rows = read_metrics(run)
    if not rows:
        return None
    figure = _figure(10, 4)
    steps = [row["step"] for row in rows]
    left, right = figure.subplots(1, 2)
    left.plot(steps, [row["prediction_loss"] for row in rows], color=_BLUE, linewidth=2)
    left.set(title="Prediction loss: views agree", xlabel="step", ylabel="mean squared distance", ylim=(0, None))
    right.plot(steps, [row["sigreg_loss"] for row in rows], color=_ORANGE, linewidth=2)
    right.axhline(_NULL_MEAN, color=_GRAY, linestyle="--")
    right.annotate("a perfect Gaussian, 1.05", (steps[-1], _NULL_MEAN), ha="right", va="bottom", color=_GRAY)
    right.set(title="SIGReg: projections become Gaussian", xlabel="step", ylabel="statistic", yscale="log")
    ticks = [
        tick for tick in (1, 2, 5, 10, 20, 50, 100, 200, 500) if tick <= 2 * max(row["sigreg_loss"] for row in rows)
    ]
    right.set_yticks(ticks, labels=[str(tick) for tick in ticks])
    right.minorticks_off()
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return _save(figure, Path(run) / "pictures" / "losses.png")


def draw_embeddings(run: str | Path, embeddings, labels, class_names: list[str] | None) -> Path:
    """
    Held-out embeddings in two dimensions by t-SNE, coloured by labels that training never saw.

    Args:
        run (`str` or `Path`): Run folder.
        embeddings (`torch.Tensor` of shape `(num_images, dim)`): The first 2,000 are shown.
        labels (`torch.Tensor` of shape `(num_images,)`): Class numbers.
        class_names (`list[str]`, *optional*): Their names.

    Returns:
        `Path`: `pictures/embeddings.png` in the run folder.
    """
    from matplotlib import colormaps
    from sklearn.manifold import TSNE

    embeddings, labels = embeddings[:2000].numpy(), labels[:2000].numpy()
    perplexity = min(30, (len(labels) - 1) / 3)
    points = TSNE(init="pca", perplexity=perplexity, metric="cosine", random_state=0).fit_transform(embeddings)
    figure = _figure(7, 6)
    axes = figure.subplots()
    classes = sorted(set(labels.tolist()))
    colours = colormaps["tab10" if len(classes) <= 10 else "turbo"].resampled(len(classes))
    for number, label in enumerate(classes):
        chosen = points[labels == label]
        name = class_names[label] if class_names else str(label)
        axes.scatter(*chosen.T, s=16, color=colours(number), label=name, linewidths=0)
        if len(classes) <= 30:
            # Among the class's own points: a mean would lie between its clusters.
            centre = min(chosen.tolist(), key=lambda point: (((chosen - point) ** 2).sum(1) ** 0.5).sum())
            axes.annotate(
                name,
                centre,
                ha="center",
                va="center",
                weight="bold",
                bbox={"boxstyle": "round,pad=0.2", "facecolor": "white", "alpha": 0.8, "edgecolor": "none"},
            )
    axes.set(title="Held-out images by t-SNE of their embeddings, coloured by label", xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    return _save(figure, Path(run) / "pictures" / "embeddings.png")


def draw_few_shot(run: str | Path, results: dict[str, dict[str, float]]) -> Path | None:
    """
    Accuracy over the number of labelled images a class, with its 95 % interval, an encoder a curve.

    Args:
        run (`str` or `Path`): Run folder.
        results (`dict[str, dict[str, float]]`): Of [`few_shot`] by name of the encoder; other results are passed over.

    Returns:
        `Path`: `pictures/few_shot.png` in the run folder, None where there are results for fewer than two numbers.
    """
    pattern = re.compile(r"eval_(\d+|all)shot_top1")
    shots = [match[1] for name in next(iter(results.values()), {}) if (match := pattern.fullmatch(name))]
    if len(shots) < 2:
        return None
    figure = _figure(7, 4.5)
    axes = figure.subplots()
    places = range(len(shots))
    for (name, values), (colour, line, marker) in zip(results.items(), _CURVES, strict=False):
        accuracy = [100 * values[f"eval_{k}shot_top1"] for k in shots]
        half = [100 * values.get(f"eval_{k}shot_top1_ci95", 0.0) for k in shots]
        axes.errorbar(
            places, accuracy, half, color=colour, linestyle=line, marker=marker, markersize=5, linewidth=2, capsize=3
        )
        axes.plot([], [], color=colour, linestyle=line, marker=marker, linewidth=2, label=name)
    axes.set_xticks(places, labels=shots)
    axes.set(
        title="Classification from few labelled images, frozen embeddings",
        xlabel="labelled images a class",
        ylabel="held-out top-1 in %, 95 % interval",
    )
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    return _save(figure, Path(run) / "pictures" / "few_shot.png")


def draw_patch_maps(run: str | Path, pixels, colours) -> Path:
    """
    Images, and below each the principal components of its patch features as colours.

    Args:
        run (`str` or `Path`): Run folder.
        pixels (`torch.Tensor` of shape `(num_images, channels, height, width)`): What the encoder saw; each image is
            stretched from black to white. Of other than three channels their mean is shown.
        colours (`torch.Tensor` of shape `(num_images, rows, columns, 3)`): From
            [`~evaluation.patch_maps.principal_colours`].

    Returns:
        `Path`: `pictures/pca_maps.png` in the run folder.
    """
    num_images = len(pixels)
    figure = _figure(max(4.0, 1.5 * num_images), 3.8)
    axes = figure.subplots(2, num_images, squeeze=False)
    for column in range(num_images):
        image = pixels[column] if len(pixels[column]) == 3 else pixels[column].mean(0, keepdim=True).expand(3, -1, -1)
        image = image - image.min()
        axes[0, column].imshow((image / image.max().clamp_min(1e-12)).movedim(0, -1).numpy())
        axes[1, column].imshow(colours[column].numpy(), interpolation="nearest")
    for one in axes.flat:
        one.set(xticks=[], yticks=[])
        one.spines[:].set_visible(False)
    rows, columns = colours.shape[1:3]
    figure.suptitle(
        f"Patch features, {rows} x {columns} an image: three principal components over all of them as colours",
        fontsize="medium",
    )
    return _save(figure, Path(run) / "pictures" / "pca_maps.png")


def draw_gaussianity(run: str | Path, statistics) -> Path:
    """
    How Gaussian projections or embeddings are: slices beside N(0, 1), their quantiles, the covariance spectrum.

    Args:
        run (`str` or `Path`): Run folder.
        statistics ([`EmbeddingStatistics`]): Of the projections.

    Returns:
        `Path`: `pictures/gaussianity.png` in the run folder.
    """
    figure = _figure(10, 4)
    left, middle, right = figure.subplots(1, 3)
    _draw_slices(left, statistics)
    _draw_quantiles(middle, statistics)
    _draw_spectrum(right, statistics)
    for axes in (left, middle, right):
        axes.spines[["top", "right"]].set_visible(False)
    values = statistics.sigreg
    if len(values) > _MAX_LISTED_VIEWS:
        found = f"{min(values):.2f} to {max(values):.2f} ({len(values)} views)"
    else:
        found = ", ".join(f"{value:.2f}" for value in values)
    figure.suptitle(
        f"SIGReg of each view: {found}. Of {statistics.num_images} Gaussian samples: {statistics.null_mean:.2f} ± "
        f"{statistics.null_std:.2f}",
        fontsize="medium",
    )
    return _save(figure, Path(run) / "pictures" / "gaussianity.png")


def _draw_slices(axes, statistics) -> None:
    import numpy as np

    worst, others = statistics.worst_slices[0], statistics.random_slices.numpy()
    limit = max(4.0, float(np.abs(worst.sample.numpy()).max()), float(np.abs(others).max()))
    bins = np.linspace(-limit, limit, 32)
    axes.hist(worst.sample.numpy(), bins, density=True, color=_ORANGE, alpha=0.5, label="worst slice")
    for number, sample in enumerate(others):
        label = "random slices" if number == 0 else None
        axes.hist(sample, bins, density=True, histtype="step", color=_BLUE, alpha=0.8, linewidth=1, label=label)
    points = np.linspace(-limit, limit, 1001)
    normal = np.exp(-(points**2) / 2) / np.sqrt(2 * np.pi)
    axes.plot(points, normal, color="black", linestyle="--", linewidth=1.5, label="N(0, 1)")
    axes.set(title=f"Slices, the worst at {worst.statistic:.1f}", xlabel="value", ylabel="density")
    axes.set_ylim(0, 1.35 * axes.get_ylim()[1])  # room for the legend
    axes.legend(frameon=False, fontsize="small", loc="upper left")


def _draw_quantiles(axes, statistics) -> None:
    import numpy as np

    levels = statistics.quantile_levels
    normal = (2**0.5 * (2 * levels - 1).erfinv()).numpy()
    low, median, high = statistics.quantile_band.numpy()
    worst = np.quantile(statistics.worst_slices[0].sample.numpy(), levels.numpy())
    axes.fill_between(normal, low, high, color=_BLUE, alpha=0.3, linewidth=0, label="5% to 95% of slices")
    axes.plot(normal, median, color=_BLUE, linewidth=2, label="median slice")
    axes.plot(normal, worst, color=_ORANGE, linewidth=2, label="worst slice")
    axes.plot(normal[[0, -1]], normal[[0, -1]], color="black", linestyle="--", linewidth=1.5)
    axes.set(title="Quantiles", xlabel="of N(0, 1)", ylabel="of the sample")
    axes.legend(frameon=False, fontsize="small", loc="upper left")


def _draw_spectrum(axes, statistics) -> None:
    eigenvalues = statistics.eigenvalues.numpy()
    present = eigenvalues[eigenvalues > 0]
    axes.plot(range(1, len(present) + 1), present, color=_BLUE, marker="o", markersize=3, linewidth=1)
    axes.axhline(1, color="black", linestyle="--", linewidth=1.5)
    # Two decades at least: what a Gaussian sample's eigenvalues scatter should look small.
    low, high = (present.min(), present.max()) if len(present) else (1, 1)
    axes.set(
        title=f"Effective rank {statistics.effective_rank:.1f} of {len(eigenvalues)}",
        xlabel="index",
        ylabel="eigenvalue of the covariance",
        yscale="log",
        xlim=(0, len(eigenvalues) + 1),
        ylim=(min(0.1, low / 2), max(10, high * 2)),
    )
    axes.minorticks_off()


def _save(figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path
