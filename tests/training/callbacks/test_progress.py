import io
import logging
import sys
from types import SimpleNamespace

import pytest
from transformers import TrainerControl, TrainerState

from lejepa_hf.training.callbacks.progress import DataHint, ProgressBar


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
    [(8, "cuda", "more cores"), (0, "cuda", "from 0 to 8"), (0, "cpu", "share the CPU")],
)
def test_remedy_fits_the_machine(caplog, monkeypatch, workers, device, remedy):
    monkeypatch.setattr("lejepa_hf.training.callbacks.progress.cores_of_this_process", lambda: 8)
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
