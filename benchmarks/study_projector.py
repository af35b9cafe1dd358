"""
How wide and how deep should the projector be?

    python benchmarks/study_projector.py

Claims of arXiv 2511.08544: a narrow output is better or equal (64 compared with up to 1024), and three layers are
better than one, by 4 points and more on ImageNet-100.
"""

from study_runs import draw_panels, print_table, run_study, write_rows

OUTPUT = {f"{width} out": {"projector_dims": [512, 512, width]} for width in (8, 32, 128)} | {"32 out": {}}
DEPTH = {"1 layer": {"projector_dims": [32]}, "2 layers": {"projector_dims": [512, 32]}, "3 layers": {}}
HIDDEN = {f"{width} hidden": {"projector_dims": [width, width, 32]} for width in (128, 512, 1024)} | {"512 hidden": {}}


def main() -> None:
    rows = run_study(OUTPUT | DEPTH | HIDDEN)
    write_rows("projector", rows)
    print_table(rows)
    draw_panels("projector", rows, {"Width of the output": OUTPUT, "Depth": DEPTH, "Hidden width": HIDDEN})


if __name__ == "__main__":
    main()
