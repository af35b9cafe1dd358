"""
Does the weight of SIGReg matter?

    python benchmarks/study_sigreg_weight.py

Claim of arXiv 2511.08544: accuracy is flat over weights from 0.01 to 0.1.
"""

from matplotlib.figure import Figure
from study_runs import ACCURACIES, PICTURES, STYLES, draw_ranges, finish, print_table, run_study, values_of, write_rows

WEIGHTS = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
SETTINGS = {str(weight): {"sigreg_weight": weight} for weight in WEIGHTS}


def main() -> None:
    rows = run_study(SETTINGS)
    write_rows("sigreg_weight", rows)
    print_table(rows)
    figure = Figure(figsize=(5.5, 3.6), layout="constrained")
    axes = figure.subplots()
    for (accuracy, text), style in zip(ACCURACIES.items(), STYLES, strict=False):
        draw_ranges(axes, WEIGHTS, [values_of(rows, label, accuracy) for label in SETTINGS], style, text)
    axes.axvspan(0.01, 0.1, color="#eeeeee", zorder=0)
    axes.set(xscale="log", xlabel="sigreg_weight", ylabel="held-out top-1 in %, mean and range")
    axes.legend(frameon=False)
    finish(axes, "Grey: where the paper finds it flat")
    figure.savefig(PICTURES / "study_sigreg_weight.png", dpi=120)


if __name__ == "__main__":
    main()
