"""What runs logged over their steps, as SVG inside a page: in the page's colours, and as wide as its column."""

import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...system.run_folder import Row, RunFolder
from .figure import BLUE, GRAY, ORANGE, STYLES, legible, new_subplots

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)
_Line = list[tuple[int, float]]  # steps and values
# Colours of the page that replace those of the drawing.
_OF_PAGE = {"#000000": "currentColor", BLUE: "var(--blue)", ORANGE: "var(--orange)", GRAY: "var(--quiet)"}


@dataclass(frozen=True)
class _Measure:
    """A quantity by its names in rows of training batches and of held-out images; None where it is not logged."""

    title: str
    training: str | None
    held_out: str
    scale: float = 1.0


_SIGREG = _Measure("SIGReg, 1 for a Gaussian", "sigreg_loss", "eval_sigreg_loss")
_MEASURES = (
    _Measure("Prediction loss", "prediction_loss", "eval_prediction_loss"),
    _SIGREG,
    _Measure("Effective rank of the embeddings", "effective_rank", "eval_effective_rank"),
    _Measure("Online probe, % right", "online_probe_top1", "eval_online_probe_top1", 100),
    _Measure("k-NN, % right", None, "eval_knn_top1", 100),
)


def draw_curves(runs: dict[str, RunFolder]) -> dict[str, str]:
    """
    Curves of runs, by the names to show for them: for each quantity that at least one of them logged its title and an
    SVG, for a page with the CSS variables `--blue`, `--orange` and `--quiet`. SIGReg is in units of its value for
    Gaussian projections, and left out of runs that did not log this value.
    """
    curves = {}
    for measure in _MEASURES:
        lines = {name: _lines(run, measure) for name, run in runs.items()}
        if any(line for pair in lines.values() for line in pair):
            curves[measure.title] = _draw(measure.title, lines)
    return curves


def sigreg_of_gaussian(run: RunFolder) -> float | None:
    """SIGReg of Gaussian projections with the statistic of the run; None if the run did not log it."""
    rows = [row for row in run.read_metrics() if row.get("sigreg_over_null")]
    return rows[-1]["sigreg_loss"] / rows[-1]["sigreg_over_null"] if rows else None


def _lines(run: RunFolder, measure: _Measure) -> tuple[_Line, _Line]:
    """Training batches, and held-out images."""
    scale = measure.scale
    if measure is _SIGREG:
        unit = sigreg_of_gaussian(run)
        if unit is None:
            return [], []
        scale = 1 / unit
    training = _values(run.read_metrics(), measure.training, scale) if measure.training is not None else []
    return training, _values(run.read_held_out(), measure.held_out, scale)


def _values(rows: list[Row], name: str, scale: float) -> _Line:
    return [(row["step"], scale * row[name]) for row in rows if row.get(name) is not None]


def _draw(title: str, lines: dict[str, tuple[_Line, _Line]]) -> str:
    """Training batches as lines, held-out images as hollow markers, joined where there is no other line."""
    figure, axes = new_subplots(4.6, 3.0)
    for number, (name, (training, held_out)) in enumerate(lines.items()):
        colour, line, marker = STYLES[number % len(STYLES)]
        labels = ("training batches", "held-out images") if len(lines) == 1 else (legible(name), None)
        if training:
            axes.plot(*zip(*training, strict=True), color=colour, linestyle=line, linewidth=1.8, label=labels[0])
        if held_out:
            style = {"marker": marker, "markersize": 6, "markerfacecolor": "none", "color": colour}
            label = labels[1] if training or len(lines) == 1 else labels[0]
            joined = "none" if training else line
            axes.plot(*zip(*held_out, strict=True), linestyle=joined, linewidth=1.8, label=label, **style)
    if title == _SIGREG.title:
        axes.axhline(1, color=GRAY, linestyle="--", linewidth=1)
        _set_log_scale(axes)
    axes.set(title=title, xlabel="step")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small", loc="best")
    return _as_element(figure, title)


def _set_log_scale(axes: "Axes") -> None:
    """With ticks that are written as plain numbers."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    ticks = [tick for tick in _TICKS if low <= tick <= high]
    axes.set_yticks(ticks, labels=[f"{tick:g}" for tick in ticks])
    axes.minorticks_off()


def _as_element(figure: "Figure", title: str) -> str:
    """A figure as an element of a page: with text as text, no size of its own, and names of parts that are its own."""
    from matplotlib import rc_context

    figure.set_facecolor("none")
    for axes in figure.axes:
        axes.set_facecolor("none")
    written = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        figure.savefig(written, format="svg")
    drawing = written.getvalue()
    box = re.search(r'viewBox="[^"]*"', drawing)
    assert box is not None, "matplotlib writes one"
    content = drawing[drawing.index("</metadata>") + len("</metadata>") :]
    content = re.sub(r"<style.*?</style>", "", content, flags=re.DOTALL)  # it would hold for the whole page
    content = re.sub(r'<g id="[^"]*">', "<g>", content)
    for colour, of_page in _OF_PAGE.items():
        content = content.replace(colour, of_page)
    return f'<svg {box[0]} role="img" aria-label="{title}">{content}'
