import io
import json
import logging
import os
import sqlite3
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from monitored_run import monitored, rows
from transformers import TrainerControl, TrainerState

from lejepa_hf.evaluation.rank import rank_and_spread
from lejepa_hf.training.callbacks.monitors import DataHint, EmbeddingMonitor, MetricsFile, MonitorCost, ProgressBar


def begin(path, step: int, main_process: bool = True) -> MetricsFile:
    metrics = MetricsFile(path)
    state = TrainerState(global_step=step, is_world_process_zero=main_process)
    metrics.on_train_begin(None, state, TrainerControl())
    return metrics


def log(metrics: MetricsFile, steps, main_process: bool = True, **values):
    for step in steps:
        state = TrainerState(global_step=step, is_world_process_zero=main_process)
        metrics.on_log(None, state, TrainerControl(), logs={"loss": step / 8, **values})


def steps_in(path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "metrics.jsonl"


def test_rows_are_appended(path):
    metrics = begin(path, 0)
    log(metrics, [10], prediction_loss=0.25)
    log(metrics, [20])
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert rows == [{"step": 10, "loss": 1.25, "prediction_loss": 0.25}, {"step": 20, "loss": 2.5}]


def test_a_row_is_on_disk_as_soon_as_it_is_logged(path):
    metrics = begin(path, 0)
    for step in (1, 2, 3):
        log(metrics, [step])
        assert path.read_text().endswith("}\n")
        assert steps_in(path)[-1] == step


@pytest.mark.parametrize(("resume_at", "kept"), [(20, [10, 20]), (25, [10, 20]), (30, [10, 20, 30]), (5, [])])
def test_a_resumed_run_drops_the_rows_it_repeats(path, resume_at, kept):
    log(begin(path, 0), [10, 20, 30])
    before = path.read_text().splitlines()
    metrics = begin(path, resume_at)
    assert path.read_text().splitlines() == before[: len(kept)]
    log(metrics, [40])
    assert steps_in(path) == [*kept, 40]


@pytest.mark.parametrize("torn", ['{"step": 30, "loss": 3.', '{"step"', "{"])
def test_a_line_torn_by_a_kill_is_dropped(path, torn):
    log(begin(path, 0), [10, 20])
    with path.open("a") as file:
        file.write(torn)
    log(begin(path, 30), [40])
    assert steps_in(path) == [10, 20, 40]


def test_a_fresh_run_starts_an_empty_file(path):
    log(begin(path, 0), [0, 10, 20])  # something may be logged before the first step
    log(begin(path, 0), [1])
    assert steps_in(path) == [1]


def test_only_the_main_process_writes(path):
    log(begin(path, 0), [10, 20])
    log(begin(path, 10, main_process=False), [30], main_process=False)
    assert steps_in(path) == [10, 20]


def test_an_empty_log_is_no_row(path):
    begin(path, 0).on_log(None, TrainerState(global_step=1), TrainerControl(), logs={})
    assert not path.exists()


def hints(caplog, fractions, workers: int = 2, device: str = "cuda", main_process: bool = True) -> list[str]:
    hint, state = DataHint(), TrainerState(is_world_process_zero=main_process)
    args = SimpleNamespace(dataloader_num_workers=workers, device=SimpleNamespace(type=device))
    with caplog.at_level(logging.WARNING, "lejepa_hf"):
        hint.on_train_begin(args, state, TrainerControl())
        for fraction in fractions:
            hint.on_log(args, state, TrainerControl(), logs={"loss": 1.0, "data_wait_fraction": fraction})
    return [record.message for record in caplog.records]


def test_waiting_is_said_once_with_the_remedy(caplog, monkeypatch):
    monkeypatch.setattr("lejepa_hf.training.callbacks.monitors.cores_of_this_process", lambda: 8)
    (message,) = hints(caplog, [0.9, 0.5, 0.4, 0.4, 0.4, 0.4])
    assert message.startswith("40% of the time") and "`dataloader_num_workers` from 2 to 8" in message


@pytest.mark.parametrize(
    ("workers", "device", "remedy"),
    [(8, "cuda", "more cores"), (0, "cuda", "from 0 to 8"), (0, "cpu", "share the CPU")],
)
def test_remedy_fits_the_machine(caplog, monkeypatch, workers, device, remedy):
    monkeypatch.setattr("lejepa_hf.training.callbacks.monitors.cores_of_this_process", lambda: 8)
    (message,) = hints(caplog, [0.3] * 3, workers, device)
    assert remedy in message


@pytest.mark.parametrize(("fractions", "main_process"), [([0.9, 0.09, 0.1, 0.05, 0.1], True), ([0.9] * 5, False)])
def test_no_hint_where_nothing_waits_or_by_another_process(caplog, fractions, main_process):
    assert hints(caplog, fractions, main_process=main_process) == []


def test_bar_shows_loss_speed_and_waiting(monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stderr", shown)
    bar, state = ProgressBar(), TrainerState(is_world_process_zero=True, max_steps=5)
    bar.on_train_begin(None, state, None)
    bar.on_log(None, state, None, logs={"loss": 0.51234, "images_per_second": 812.4, "data_wait_fraction": 0.07})
    bar.on_train_end(None, state, None)
    assert "loss 0.5123, 812 images/s, 7% waiting for data" in shown.getvalue()


def test_rank_and_spread_are_of_the_last_batch_of_global_views():
    monitor, generator = EmbeddingMonitor(num_global_views=2), torch.Generator().manual_seed(0)
    assert monitor.measure() == {}
    first, last = (torch.randn(5, 30, 8, generator=generator, requires_grad=True) for _ in range(2))
    monitor.observe(first, None)
    monitor.observe(last, None)
    assert monitor.measure() == rank_and_spread(last[:2].flatten(0, 1))


def test_cost_is_of_the_window_and_of_the_run():
    cost = MonitorCost()
    for seconds in (0.05, 0.0):
        with cost:
            time.sleep(seconds)
        time.sleep(0.05)
        found = cost.measure()
        assert seconds <= found["monitor_seconds"] < seconds + 0.045
    assert 0.2 < found["monitor_fraction"] < 0.5


def test_every_row_has_the_figures_of_the_monitors(tmp_path):
    trainer = monitored(tmp_path)
    trainer.train()
    for row in rows(trainer):
        assert 1 <= row["effective_rank"] <= 15 and 0 < row["smallest_spread"] < row["embedding_spread"]
        assert row["sigreg_over_null"] == pytest.approx(row["sigreg_loss"] / 1.0525, rel=1e-4)
        assert row["online_probe_loss"] > 0 and 0 <= row["online_probe_top1"] <= 1
        assert row["monitor_seconds"] > 0 and 0 < row["monitor_fraction"] < 1
    after_an_evaluation = rows(trainer)[2]
    assert after_an_evaluation["monitor_seconds"] > rows(trainer, "eval_runtime")[0]["eval_runtime"]
    assert trainer.state.log_history[-1]["monitor_fraction"] > 0  # of the whole run, the last evaluation included


def test_each_is_optional(tmp_path):
    trainer = monitored(tmp_path, monitors=[], eval_strategy="no", model={"sigreg_views": "pooled"})
    trainer.train()
    names = set().union(*trainer.state.log_history)
    assert not {"effective_rank", "embedding_spread", "sigreg_over_null", "online_probe_loss"} & names


SECRETS = {"hub_token": "hf_secret", "report_to": ["tensorboard"], "max_steps": 4, "save_strategy": "no"}


def test_tensorboard_shows_every_figure(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer = monitored(tmp_path, **SECRETS)
    trainer.train()
    (events,) = tmp_path.rglob("events.out.tfevents.*")
    content = EventAccumulator(str(events)).Reload()
    for row in trainer.state.log_history:
        for name, value in row.items():
            if name == "step" or name == "total_flos":
                continue
            tag = f"eval/{name[5:]}" if name.startswith("eval_") else f"train/{name}"
            assert any(
                event.step == row["step"] and event.value == pytest.approx(value, rel=1e-6)
                for event in content.Scalars(tag)
            ), name
    assert b"hf_secret" not in events.read_bytes() and str(tmp_path).encode() not in events.read_bytes()
    assert (tmp_path / "metrics.jsonl").is_file()


def test_trackio_shows_every_figure(tmp_path):
    pytest.importorskip("trackio")
    # Its folder is read when it is imported.
    code = f"""
from monitored_run import monitored
trainer = monitored({str(tmp_path / "run")!r}, **{SECRETS | {"report_to": ["trackio"], "project": "digits"}!r})
trainer.train()
"""
    environment = {**os.environ, "TRACKIO_DIR": str(tmp_path / "trackio"), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (database,) = (tmp_path / "trackio").glob("*.db")
    with sqlite3.connect(database) as connection:
        logged = [json.loads(text) for (text,) in connection.execute("select metrics from metrics")]
    found = set().union(*logged)
    expected = {"train/loss", "train/effective_rank", "train/online_probe_top1", "train/monitor_fraction"}
    assert expected | {"eval/loss", "eval/knn_top1", "eval/effective_rank"} <= found
    assert all(isinstance(value, int | float | str) for row in logged for value in row.values())
    assert not any(b"hf_secret" in path.read_bytes() for path in (tmp_path / "trackio").rglob("*") if path.is_file())
    assert str(tmp_path).encode() not in database.read_bytes()
    assert (tmp_path / "run" / "metrics.jsonl").is_file()
