import json

from lejepa_hf.system.logged_rows import read_held_out, read_metrics, read_rows


def write_rows(run, rows: list[dict]):
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_rows_by_their_kind(tmp_path):
    training = [{"step": step, "prediction_loss": 1 / step} for step in (10, 20)]
    held_out = [{"step": step, "eval_loss": 2 / step} for step in (10, 20)]
    write_rows(tmp_path, [training[0], held_out[0], training[1], held_out[1], {"step": 20, "train_runtime": 3.0}])
    assert read_metrics(tmp_path) == training
    assert read_held_out(tmp_path) == held_out
    assert len(read_rows(tmp_path)) == 5
    assert read_rows(tmp_path / "nothing") == []


def test_a_step_repeated_after_a_kill_counts_once(tmp_path):
    write_rows(
        tmp_path, [{"step": 10, "eval_loss": 3.0}, {"step": 20, "eval_loss": 2.0}, {"step": 20, "eval_loss": 1.0}]
    )
    assert [row["eval_loss"] for row in read_held_out(tmp_path)] == [3.0, 1.0]


def test_a_line_torn_by_a_kill_is_left_out(tmp_path):
    write_rows(tmp_path, [{"step": 10, "prediction_loss": 1.0}, {"step": 20, "prediction_loss": 1.0}])
    with (tmp_path / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 30, "prediction_lo')
    assert [row["step"] for row in read_metrics(tmp_path)] == [10, 20]
