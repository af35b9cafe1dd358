import json
import re
from xml.etree import ElementTree

import pytest

from lejepa_hf.hub.pictures.curves import draw_curves, sigreg_of_gaussian
from lejepa_hf.system.run_folder import RunFolder

ROWS = [
    {"step": step, "prediction_loss": 1 / step, "sigreg_loss": 21.0 / step, "sigreg_over_null": 20.0 / step,
     "effective_rank": step / 2, "online_probe_top1": step / 100} for step in (10, 20, 40)
]  # fmt: skip
HELD_OUT = {"step": 40, "eval_loss": 0.1, "eval_prediction_loss": 0.1, "eval_sigreg_loss": 2.1, "eval_knn_top1": 0.5}


@pytest.fixture
def write(tmp_path):
    def written(name: str, *rows: dict) -> RunFolder:
        (tmp_path / name).mkdir()
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / name / "metrics.jsonl").write_text(text, encoding="utf-8")
        return RunFolder(tmp_path / name)

    return written


def test_a_curve_for_each_quantity_that_was_logged(write):
    run = write("run", *ROWS, HELD_OUT)
    assert sigreg_of_gaussian(run) == pytest.approx(1.05)
    curves = draw_curves({"run": run})
    assert list(curves) == [
        "Prediction loss", "SIGReg, 1 for a Gaussian", "Effective rank of the embeddings", "Online probe, % right",
        "k-NN, % right",
    ]  # fmt: skip
    for title, drawing in curves.items():
        words = "".join(ElementTree.fromstring(drawing.replace("<svg", '<svg xmlns:xlink="x"', 1)).itertext())
        assert title in words and "step" in words
        assert "#000000" not in drawing and "currentColor" in drawing  # legible in any theme
        assert not re.search(r"<svg[^>]*(width|height)=", drawing) and "<style" not in drawing
    marks = [set(re.findall(r' id="([^"]+)"', drawing)) for drawing in curves.values()]
    assert len(set().union(*marks)) == sum(map(len, marks))  # names of one page


def test_runs_in_one_plot_are_named_and_look_different(write):
    runs = {"first": write("a", *ROWS), "second <b>": write("b", *ROWS[:2], HELD_OUT)}
    drawing = draw_curves(runs)["Prediction loss"]
    assert "first" in drawing and "second &lt;b&gt;" in drawing
    assert "var(--blue)" in drawing and "var(--orange)" in drawing


def test_what_was_not_logged_has_no_curve(write):
    assert draw_curves({"run": write("none")}) == {}
    older = [{"step": 10, "prediction_loss": 0.5, "sigreg_loss": 2.0}]
    assert list(draw_curves({"run": write("old", *older)})) == ["Prediction loss"]
