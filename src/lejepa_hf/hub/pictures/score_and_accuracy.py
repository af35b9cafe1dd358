"""Scores, which need no labels, beside accuracies, which do."""

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill

from .figure import STYLES, new_figure, save_figure


def draw_scores(path: Path, candidates: Sequence, title: str) -> Path:
    """
    Draw a marker for each candidate of `runs.selection`, with a shape and colour for each run, filled at the run's
    end: score and accuracy, or the scores alone where nothing is labelled.
    """
    labelled = [one for one in candidates if one.knn_top1 is not None]
    runs = list(dict.fromkeys(one.run for one in candidates))
    figure = new_figure(7, 5 if labelled else max(2.5, 1.2 + 0.4 * len(runs)))
    axes = figure.subplots()
    for number, run in enumerate(runs):
        colour, _, marker = STYLES[number % len(STYLES)]
        for one in labelled or candidates:
            if one.run == run:
                height = 100 * one.knn_top1 if labelled else number
                face = colour if one.is_final else "white"
                axes.plot(one.score, height, marker, color=colour, markerfacecolor=face, markersize=9)
        axes.plot([], [], marker, color=colour, markersize=9, label=run)
    if labelled:
        axes.set(ylabel="k-NN top-1 in %")
        if len(runs) <= 2 * len(STYLES):
            figure.legend(frameon=False, loc="outside right upper")
    else:
        axes.set_yticks(range(len(runs)), labels=runs)
        axes.set_ylim(len(runs) - 0.5, -0.5)
    axes.set(xlabel="held-out loss / sigreg_weight^0.4, the lower the better")
    axes.set_title(fill(title, 70), fontsize="medium")
    axes.grid(color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return save_figure(figure, path)
