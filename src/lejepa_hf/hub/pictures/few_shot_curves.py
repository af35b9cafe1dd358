"""Accuracy over the number of labelled images."""

import re
from pathlib import Path

from ...system.run_folder import RunFolder
from .figure import STYLES, new_figure, save_figure


def draw_few_shot(run: str | Path, results: dict[str, dict[str, float]]) -> Path | None:
    """
    Write `pictures/few_shot.png`: accuracy over the number of labelled images a class, with its 95 % interval, a curve
    for each encoder in `results` of [`few_shot`]. None where there are results for fewer than two numbers.
    """
    pattern = re.compile(r"eval_(\d+|all)shot_top1")
    shots = [match[1] for name in next(iter(results.values()), {}) if (match := pattern.fullmatch(name))]
    if len(shots) < 2:
        return None
    figure = new_figure(7, 4.5)
    axes = figure.subplots()
    places = range(len(shots))
    for (name, values), (colour, line, marker) in zip(results.items(), STYLES, strict=False):
        accuracy = [100 * values[f"eval_{k}shot_top1"] for k in shots]
        half = [100 * values.get(f"eval_{k}shot_top1_ci95", 0.0) for k in shots]
        axes.errorbar(
            places, accuracy, half, color=colour, linestyle=line, marker=marker, ms=5, linewidth=2, capsize=3
        )
        axes.plot([], [], color=colour, linestyle=line, marker=marker, linewidth=2, label=name)
    axes.set_xticks(places, labels=shots)
    axes.set_title("Classification from few labelled images, frozen embeddings")
    axes.set(xlabel="labelled images a class", ylabel="held-out top-1 in %, 95 % interval")
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    return save_figure(figure, RunFolder(run).picture("few_shot"))
