import io
import json
import logging
import sys
from types import SimpleNamespace

import pytest
from transformers import TrainerControl, TrainerState

from lejepa_hf.system.run_folder import RunFolder
from lejepa_hf.training.callbacks.progress import DataHint, MetricsFile, ProgressBar


def hints(caplog, fractions, workers: int = 2, device: str = "cuda", main_process: bool = True) -> list[str]:
    hint, state = DataHint(), TrainerState(is_world_process_zero=main_process)
    args = SimpleNamespace(dataloader_num_workers=workers, device=SimpleNamespace(type=device))
    with caplog.at_level(logging.WARNING, "lejepa_hf"):
        hint.on_train_begin(args, state, TrainerControl())
        for fraction in fractions:
            hint.on_log(args, state, TrainerControl(), logs={"loss": 1.0, "data_wait_fraction": fraction})
    return [record.message for record in caplog.records]


def test_waiting_is_said_once_with_the_remedy(caplog, monkeypatch):
    monkeypatch.setattr("lejepa_hf.training.callbacks.progress.cores_of_this_process", lambda: 8)
    (message,) = hints(caplog, [0.9, 0.5, 0.4, 0.4, 0.4, 0.4])
    assert message.startswith("40% of the time") and "`dataloader_num_workers` from 2 to 8" in message


@pytest.mark.parametrize(
    ("workers", "device", "remedy"),
    [(8, "cuda", "more cores"), (0, "cuda", "from 0 to 8"), (2, "cpu", "share the CPU"), (0, "cpu", "to 1, which")],
)
def test_remedy_fits_the_machine(caplog, monkeypatch, workers, device, remedy):
    monkeypatch.setattr("lejepa_hf.training.callbacks.progress.cores_of_this_process", lambda: 8)
    (message,) = hints(caplog, [0.6] * 3, workers, device)
    assert remedy in message


def test_no_hint_where_the_cpu_cuts_views_without_workers(caplog):
    assert hints(caplog, [0.45] * 5, workers=0, device="cpu") == []


@pytest.mark.parametrize(("fractions", "main_process"), [([0.9, 0.09, 0.1, 0.05, 0.1], True), ([0.9] * 5, False)])
def test_no_hint_where_nothing_waits_or_by_another_process(caplog, fractions, main_process):
    assert hints(caplog, fractions, main_process=main_process) == []


@pytest.mark.parametrize(("workers", "doing"), [(1, "waiting for data"), (0, "cutting views")])
def test_bar_shows_loss_speed_and_waiting(monkeypatch, workers, doing):
    shown = io.StringIO()
    shown.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", shown)
    bar, state = ProgressBar(), TrainerState(is_world_process_zero=True, max_steps=5)
    bar.on_train_begin(None, state, None)
    args = SimpleNamespace(dataloader_num_workers=workers)
    bar.on_log(args, state, None, logs={"loss": 0.51234, "images_per_second": 812.4, "data_wait_fraction": 0.07})
    bar.on_train_end(None, state, None)
    assert f"loss 0.5123, 812 images/s, 7% {doing}" in shown.getvalue()


def begin(path, step: int, main_process: bool = True) -> MetricsFile:
    metrics = MetricsFile(RunFolder(path.parent))
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
