"""
How many slices and knots are needed, and how far should the knots reach?

    python benchmarks/study_slices_knots.py

Claims of arXiv 2511.08544: more slices are slightly better (half a point to one from 512 to 2048), the number of
knots makes no difference, and a domain of [-3, 3] is best or equal.
"""

from study_runs import draw_panels, print_table, run_study, write_rows

SLICES = {f"{number} slices": {"num_slices": number} for number in (16, 64)} | {
    "256 slices": {},
    "1024 slices": {"num_slices": 1024},
}
KNOTS = {"5 knots": {"num_knots": 5}, "17 knots": {}, "41 knots": {"num_knots": 41}}
DOMAIN = {"to 1": {"t_max": 1.0}, "to 3": {}, "to 5": {"t_max": 5.0}}


def main() -> None:
    rows = run_study(SLICES | KNOTS | DOMAIN)
    write_rows("slices_knots", rows)
    print_table(rows)
    panels = {"Random directions a step": SLICES, "Quadrature points": KNOTS, "Largest frequency": DOMAIN}
    draw_panels("slices_knots", rows, panels)


if __name__ == "__main__":
    main()
