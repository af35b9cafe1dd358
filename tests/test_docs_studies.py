import csv
import statistics
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "studies.md").read_text(encoding="utf-8")
STUDIES = sorted(path.stem.removeprefix("study_") for path in (ROOT / "benchmarks").glob("study_*.py"))
STUDIES.remove("runs")  # what they share
STUDIES.remove("features")  # has a page of its own
STUDIES.remove("photographs")  # may be without rows
STUDIES.remove("equal_time")  # has other columns: tests/benchmarks/test_study_equal_time.py
PHOTOGRAPHS = ("weight", "views", "batch", "slices", "norm", "loss")
ACCURACIES = ("linear_top1", "knn_top1", "1shot_top1")


def read_rows(name: str) -> list[dict]:
    with (ROOT / "benchmarks" / "results" / f"study_{name}.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", STUDIES)
def test_tables_are_those_of_the_rows(name):
    assert f"python benchmarks/study_{name}.py" in PAGE
    check_tables(name, read_rows(name))


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_tables_of_photographs_are_those_of_the_rows(name):
    if (ROOT / "benchmarks" / "results" / f"study_photographs_{name}.csv").is_file():
        check_tables(f"photographs_{name}", read_rows(f"photographs_{name}"))
    else:
        assert "# not run yet: " in PAGE.split("## Photographs")[1].split("\n## ")[0]


def check_tables(name: str, rows: list[dict]) -> None:
    assert f"](study_{name}.png)" in PAGE and (ROOT / "docs" / f"study_{name}.png").is_file()
    for label in dict.fromkeys(row["label"] for row in rows):
        of_label = [row for row in rows if row["label"] == label]
        assert len({row["seed"] for row in of_label}) == len(of_label) >= 3
        cells = []
        for accuracy in ACCURACIES:
            values = [float(row[accuracy]) for row in of_label]
            cells.append(f"{statistics.fmean(values):.1f} ({min(values):.1f}-{max(values):.1f})")
        assert f"| {label} | {' | '.join(cells)} |" in PAGE


def test_correlations_are_those_of_the_runs():
    with (ROOT / "benchmarks" / "results" / "study_loss_correlations.csv").open(encoding="utf-8") as file:
        measured = {tuple(row.values()) for row in csv.DictReader(file)}
    lines = PAGE.split("| runs | loss | alpha | linear | k-NN | 1 shot |")[1].split("\n\n")[0].splitlines()[2:]
    assert len(lines) > 5
    assert {tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines} <= measured
