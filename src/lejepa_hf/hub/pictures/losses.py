"""Training curves."""

from pathlib import Path

from ...system.run_folder import RunFolder
from .figure import BLUE, GRAY, ORANGE, new_subplots, save_picture

_NULL_MEAN = 1.05  # SIGReg of Gaussian projections, with the published statistic


def draw_losses(run: str | Path) -> Path | None:
    """
    Write `pictures/losses.png`: both parts of the loss over steps, of training batches and of held-out images; SIGReg
    beside its value for a perfect Gaussian. None where nothing was logged.
    """
    rows, held_out = RunFolder(run).read_metrics(), RunFolder(run).read_held_out()
    if not rows:
        return None
    figure, (left, right) = new_subplots(10, 4, 1, 2)
    steps = [row["step"] for row in rows]
    for axes, name, colour in ((left, "prediction_loss", BLUE), (right, "sigreg_loss", ORANGE)):
        axes.plot(steps, [row[name] for row in rows], color=colour, linewidth=2, label="training batches")
        if held_out:
            values = [row[f"eval_{name}"] for row in held_out]
            kind = {"linestyle": "none", "marker": "o", "markersize": 6, "markerfacecolor": "white"}
            axes.plot([row["step"] for row in held_out], values, color="black", label="held-out images", **kind)
            axes.legend(frameon=False, loc="best")
        axes.spines[["top", "right"]].set_visible(False)
    left.set(title="Prediction loss: views agree", xlabel="step", ylabel="mean squared distance", ylim=(0, None))
    # Expected SIGReg of a Gaussian: that of the run's own statistic where the monitors have measured it.
    measured = [row["sigreg_loss"] / row["sigreg_over_null"] for row in rows if row.get("sigreg_over_null")]
    null = measured[-1] if measured else _NULL_MEAN
    right.axhline(null, color=GRAY, linestyle="--")
    below = {"xytext": (0, -4), "textcoords": "offset points", "ha": "right", "va": "top"}
    right.annotate(f"a perfect Gaussian, {null:.2f}", (steps[-1], null), color=GRAY, **below)
    right.set(title="SIGReg: projections become Gaussian", xlabel="step", ylabel="statistic", yscale="log")
    values = [row["sigreg_loss"] for row in rows] + [row["eval_sigreg_loss"] for row in held_out]
    ticks = [tick for tick in (1, 2, 5, 10, 20, 50, 100, 200, 500) if tick <= 2 * max(values)]
    right.set_ylim(bottom=0.6 * min(null, *values))  # room below the line for what it is
    right.set_yticks(ticks, labels=[str(tick) for tick in ticks])
    right.minorticks_off()
    return save_picture(figure, run, "losses")
