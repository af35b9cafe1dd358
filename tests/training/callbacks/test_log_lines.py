from types import SimpleNamespace

import pytest
from monitored_run import monitored, rows
from transformers import TrainerCallback, TrainerControl, TrainerState

from lejepa_hf.system.progress_bars import hidden_progress_bars
from lejepa_hf.system.quiet import quietly
from lejepa_hf.training.callbacks.log_lines import LogLines

ROW = {
    "loss": 0.54134, "prediction_loss": 0.26431, "sigreg_loss": 14.123, "effective_rank": 112.73,
    "online_probe_top1": 0.2203, "images_per_second": 327.8, "data_wait_fraction": 0.1955, "grad_norm": 0.5,
}  # fmt: skip
HELD_OUT = {"eval_loss": 0.6612, "eval_prediction_loss": 0.3067, "eval_knn_top1": 0.2832, "eval_runtime": 2.2}


@pytest.fixture
def lines(capsys, monkeypatch):
    """The lines printed for rows by step, of which the first is where training begins."""
    monkeypatch.setattr(
        "lejepa_hf.training.callbacks.log_lines.time", SimpleNamespace(monotonic=iter(range(0, 999, 10)).__next__)
    )

    def printed(rows, first_step=0, is_main=True):
        callback, state = (
            LogLines(),
            TrainerState(is_world_process_zero=is_main, max_steps=1000, global_step=first_step),
        )
        callback.on_train_begin(None, state, TrainerControl())
        for step, row in rows:
            state.global_step = step
            callback.on_log(None, state, TrainerControl(), logs=row)
        return capsys.readouterr().out.splitlines()

    return printed


def test_columns_are_aligned(lines):
    head, trained, held_out = lines([(100, ROW), (100, HELD_OUT)])
    assert trained.split() == ["100", "0.5413", "0.2643", "14.12", "112.7", "22.0%", "328", "20%", "01:30"]
    assert held_out.split() == ["100", "0.6612", "0.3067", "28.3%", "held", "out"]
    for title, figure, line in (
        ("prediction", "0.3067", held_out),
        ("k-NN", "28.3%", held_out),
        ("SIGReg", "14.12", trained),
    ):
        assert head.index(title) + len(title) == line.index(figure) + len(figure)


def test_the_time_left_of_a_resumed_run_follows_from_its_own_steps(lines):
    # 10 seconds for 100 steps, 400 are left.
    assert lines([(600, ROW)], first_step=500)[-1].split()[-1] == "00:40"


def test_the_heading_comes_again(lines):
    printed = lines([(step, ROW) for step in range(1, 61)])
    assert [number for number, line in enumerate(printed) if "prediction" in line] == [0, 26, 52]


def test_the_end_of_training_is_a_line(lines):
    assert lines([(1000, {"train_runtime": 83.2, "train_loss": 0.4})]) == ["1,000 steps in 01:23"]


def test_only_the_main_process_prints(lines):
    assert lines([(100, ROW)], is_main=False) == lines([(100, {})]) == lines([(5, {"other": 1.0})]) == []


class Tracker(TrainerCallback):
    """As transformers' own ones get the numbers."""

    def __init__(self):
        self.rows = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.rows.append(dict(logs))


def test_a_quiet_run_prints_nothing_and_trackers_get_everything(tmp_path, capfd):
    tracker, trainer = Tracker(), monitored(tmp_path, max_steps=2, logging_steps=1)
    trainer.add_callback(tracker)
    with quietly(), hidden_progress_bars():
        trainer.train()
    printed = capfd.readouterr()
    assert "loss" not in printed.out + printed.err and "it/s" not in printed.err
    trained = [row for row in tracker.rows if "loss" in row]
    assert len(trained) == 2 and {"prediction_loss", "sigreg_loss", "images_per_second"} <= trained[0].keys()
    assert [row["loss"] for row in trained] == [row["loss"] for row in rows(trainer)]
