"""Pictures of a run, made from its files."""

import json
from pathlib import Path

_NULL_MEAN = 1.05  # SIGReg of normal projections
_BLUE, _ORANGE, _GRAY = "#0072b2", "#d55e00", "#777777"  # told apart by colour-blind eyes


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


def _save(figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path
