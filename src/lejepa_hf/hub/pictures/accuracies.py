"""Accuracies over the number of labelled images, and beside scores, which need no labels."""

import re
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill

from .figure import STYLES, legible, new_subplots, plain_text, save_figure, save_picture


def draw_few_shot(run: str | Path, results: dict[str, dict[str, float]]) -> Path | None:
    """
    Write `pictures/few_shot.png`: accuracy over the number of labelled images a class, with its 95 % interval, a curve
    for each encoder in `results` of [`FewShot`]. None where there are results for fewer than two numbers.
    """
    pattern = re.compile(r"eval_(\d+|all)shot_top1")
    shots = [match[1] for name in next(iter(results.values()), {}) if (match := pattern.fullmatch(name))]
    if len(shots) < 2:
        return None
    figure, axes = new_subplots(7, 4.5)
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
    return save_picture(figure, run, "few_shot")


def draw_scores(path: Path, candidates: Sequence, title: str) -> Path:
    """
    Draw a marker for each candidate of `runs.selection`, with a shape and colour for each run, filled at the run's
    end: score and accuracy, or the scores alone where nothing is labelled.
    """
    labelled = [one for one in candidates if one.knn_top1 is not None]
    runs = list(dict.fromkeys(one.run for one in candidates))
    figure, axes = new_subplots(7, 5 if labelled else max(2.5, 1.2 + 0.4 * len(runs)))
    for number, run in enumerate(runs):
        colour, _, marker = STYLES[number % len(STYLES)]
        for one in labelled or candidates:
            if one.run == run:
                height = 100 * one.knn_top1 if labelled else number
                face = colour if one.is_final else "white"
                axes.plot(one.score, height, marker, color=colour, markerfacecolor=face, markersize=9)
        axes.plot([], [], marker, color=colour, markersize=9, label=legible(run))
    if labelled:
        axes.set(ylabel="k-NN top-1 in %")
        if len(runs) <= 2 * len(STYLES):
            figure.legend(frameon=False, loc="outside right upper")
    else:
        axes.set_yticks(range(len(runs)), labels=list(map(legible, runs)))
        axes.set_ylim(len(runs) - 0.5, -0.5)
    axes.set(xlabel="held-out loss / sigreg_weight^0.4, the lower the better")
    axes.set_title(plain_text(fill(title, 70)), fontsize="medium")
    axes.grid(color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return save_figure(figure, path)
