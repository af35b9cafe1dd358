import json

import pytest
from picture_checks import assert_is_a_picture

from lejepa_hf.hub.pictures.losses import draw_losses


def write_metrics(run, rows: list[dict]):
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def loss_rows(steps) -> list[dict]:
    return [{"step": s, "prediction_loss": 1 / s, "sigreg_loss": 1.05 + 20 / s, "loss": 1.0} for s in steps]


@pytest.mark.parametrize("steps", [range(10, 200, 10), [10]])
def test_losses(tmp_path, steps):
    write_metrics(tmp_path, [*loss_rows(steps), {"step": 200, "train_runtime": 3.0}])
    assert_is_a_picture(draw_losses(tmp_path), tmp_path, "losses.png")


def test_losses_show_what_was_logged(tmp_path):
    write_metrics(tmp_path, loss_rows(range(1, 50)))
    first = draw_losses(tmp_path).read_bytes()
    assert draw_losses(tmp_path).read_bytes() == first
    write_metrics(tmp_path, loss_rows(range(20, 50)))
    assert draw_losses(tmp_path).read_bytes() != first


@pytest.mark.parametrize("rows", [None, [], [{"step": 3, "train_runtime": 3.0}]])
def test_nothing_logged_is_no_picture(tmp_path, rows):
    if rows is not None:
        write_metrics(tmp_path, rows)
    assert draw_losses(tmp_path) is None
    assert not (tmp_path / "pictures").exists()


def test_losses_show_held_out_images_and_the_null_of_the_run(tmp_path):
    rows = loss_rows(range(10, 200, 10))
    write_metrics(tmp_path, rows)
    first = draw_losses(tmp_path).read_bytes()
    held_out = [
        {"step": s, "eval_loss": 1.0, "eval_prediction_loss": 2 / s, "eval_sigreg_loss": 3.0} for s in (50, 90)
    ]
    write_metrics(tmp_path, [*rows, *held_out])
    assert draw_losses(tmp_path).read_bytes() != first
    write_metrics(tmp_path, [row | {"sigreg_over_null": row["sigreg_loss"] / 1.05} for row in rows])
    assert draw_losses(tmp_path).read_bytes() == first
    write_metrics(tmp_path, [row | {"sigreg_over_null": row["sigreg_loss"] / 0.9} for row in rows])
    assert draw_losses(tmp_path).read_bytes() != first
