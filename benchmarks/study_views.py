"""
How many views, and with how much SIGReg?

    python benchmarks/study_views.py

Claims of arXiv 2511.08544 (ResNet-50 on ImageNet-100): the best weight grows with the number of views, 0.01 with 2
views, 0.02 with 4, 0.05 with 8; and 4 or 8 views are better than 2.
"""

from study_runs import draw_groups, print_table, run_study, write_rows

VIEWS = (2, 4, 8)  # of which 2 are global
WEIGHTS = (0.01, 0.03, 0.1, 0.3)
GROUPS = {f"{views} views": {weight: f"{views} views, weight {weight}" for weight in WEIGHTS} for views in VIEWS}
SETTINGS = {
    GROUPS[f"{views} views"][weight]: {"num_local_views": views - 2, "sigreg_weight": weight}
    for views in VIEWS
    for weight in WEIGHTS
}


def main() -> None:
    rows = run_study(SETTINGS)
    write_rows("views", rows)
    print_table(rows)
    draw_groups("views", rows, GROUPS, "sigreg_weight")


if __name__ == "__main__":
    main()
