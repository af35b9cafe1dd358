"""Embeddings in two dimensions."""

from pathlib import Path

import torch

from ...system.run_folder import RunFolder
from .figure import new_figure, save_figure


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
    figure = new_figure(7, 6)
    axes = figure.subplots()
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
