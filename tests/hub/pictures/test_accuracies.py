from dataclasses import replace

import pytest
from picture_checks import assert_is_a_picture
from PIL import Image

from lejepa_hf.hub.pictures.accuracies import draw_few_shot, draw_scores
from lejepa_hf.runs.selection import Candidate

LABELLED = [
    Candidate("a", 20, True, 0.1, 1.0, 0.8),
    Candidate("a", 10, False, 0.1, 2.0, 0.5),
    Candidate("b", 20, True, 0.1, 3.0, 0.4),
]
UNLABELLED = [replace(one, knn_top1=None) for one in LABELLED]


def test_few_shot_curves(tmp_path):
    def row(best: float) -> dict[str, float]:
        values = {f"eval_{k}shot_top1": best - 1 / (2 + number) for number, k in enumerate((1, 5, 10, "all"))}
        return {"eval_knn_top1": 0.5} | values | {f"{name}_ci95": 0.03 for name in values}

    path = draw_few_shot(tmp_path, {"encoder": row(1.0), "untrained": row(0.8), "pixels": row(0.7)})
    assert_is_a_picture(path, tmp_path, "few_shot.png")
    first = path.read_bytes()
    assert draw_few_shot(tmp_path, {"encoder": row(0.9)}).read_bytes() != first
    assert draw_few_shot(tmp_path, {"encoder": {"eval_knn_top1": 0.5}}) is None
    assert draw_few_shot(tmp_path, {}) is None


def draw(tmp_path, candidates: list[Candidate], title: str = "Rank correlation 1.00") -> bytes:
    path = draw_scores(tmp_path / "pictures" / "select.png", candidates, title)
    assert_is_a_picture(path, tmp_path, "select.png")
    return path.read_bytes()


def test_labelled_candidates_their_runs_ends_and_title(tmp_path):
    first = draw(tmp_path, LABELLED)
    assert draw(tmp_path, [*LABELLED, replace(UNLABELLED[2], step=30, loss=9.0)]) == first  # it has no height
    assert draw(tmp_path, [*LABELLED[:2], replace(LABELLED[2], is_final=False)]) != first
    assert draw(tmp_path, LABELLED, "Rank correlation -1.00") != first


def test_scores_alone_and_room_for_many_runs(tmp_path):
    first = draw(tmp_path, UNLABELLED)
    assert draw(tmp_path, [*UNLABELLED[:2], replace(UNLABELLED[2], loss=2.5)]) != first
    draw(tmp_path, [replace(UNLABELLED[0], run=f"run {k}") for k in range(14)])
    with Image.open(tmp_path / "pictures" / "select.png") as image:
        assert image.height == 816  # 120 pixels an inch


@pytest.mark.filterwarnings("error")
def test_any_names_of_runs(tmp_path):
    names = ("runs/$^", "_hidden", "猫", "x" * 300)
    for candidates in (LABELLED, UNLABELLED):
        draw(tmp_path, [replace(candidates[0], run=name) for name in names], "of $^$ runs")
