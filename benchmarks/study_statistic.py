"""
SIGReg against a degenerate statistic: mean and variance of each slice (VICReg's constraints), by which many laws pass
for Gaussian.

    python benchmarks/study_statistic.py

Claim of arXiv 2511.08544: finitely many moments do not identify a law, losses made of them have shortcuts;
Epps-Pulley does better. Each has its own weight, for their scales differ.
"""

import statistics

from study_runs import draw_groups, print_table, run_study, write_rows

from lejepa_hf.runs.finishing import measure_projections
from lejepa_hf.runs.recipes import parse_recipe

WEIGHTS = (0.001, 0.005, 0.02, 0.05, 0.2)
GROUPS = {name: {weight: f"{name}, weight {weight}" for weight in WEIGHTS} for name in ("epps_pulley", "vcreg")}
SETTINGS = {label: {"sigreg_weight": weight} for weight, label in GROUPS["epps_pulley"].items()}
SETTINGS |= {label: {"sigreg_weight": weight, "statistic": "vcreg"} for weight, label in GROUPS["vcreg"].items()}


def main() -> None:
    rows = run_study(SETTINGS)
    for row in rows:
        measured = measure_projections(row["folder"], parse_recipe(row["folder"] / "recipe.yaml"))
        row["effective_rank"] = measured.metrics()["effective_rank"]
        # By Epps-Pulley, whatever was trained with; 1 for Gaussian projections.
        row["epps_pulley_over_null"] = statistics.fmean(measured.sigreg) / measured.null_mean
    write_rows("statistic", rows)
    print_table(rows)
    draw_groups("statistic", rows, GROUPS, "sigreg_weight")


if __name__ == "__main__":
    main()
