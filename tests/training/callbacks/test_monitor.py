import json
import os
import sqlite3
import subprocess
import sys
import time

import pytest
import torch
from monitored_run import monitored, rows

from lejepa_hf.evaluation.rank import rank_and_spread
from lejepa_hf.training.callbacks.monitor import EmbeddingMonitor, HeldOutMonitor, MonitorCost


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


class MeanLabel(HeldOutMonitor):
    def observe(self, embeddings, labels):
        """Nothing in training."""

    def measure(self):
        return {}

    def measure_held_out(self, embeddings, labels):
        assert embeddings.shape == (len(labels), 16) and not torch.is_grad_enabled()
        return {"mean_label": labels}


def test_a_monitor_of_the_user_measures_held_out_images(tmp_path):
    trainer = monitored(tmp_path, monitors=[], monitor_images=450)
    trainer.add_callback(MeanLabel())
    found = trainer.evaluate()
    labels = trainer.eval_dataset["label"][:]
    assert len(labels) == 450 and found["eval_mean_label"] == pytest.approx(sum(labels) / 450)
    assert "eval_knn_top1" not in found


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


@pytest.mark.slow
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
    assert expected | {"eval/loss", "eval/knn_top1", "eval/online_probe_top1", "eval/effective_rank"} <= found
    assert all(isinstance(value, int | float | str) for row in logged for value in row.values())
    assert not any(b"hf_secret" in path.read_bytes() for path in (tmp_path / "trackio").rglob("*") if path.is_file())
    assert str(tmp_path).encode() not in database.read_bytes()
    assert (tmp_path / "run" / "metrics.jsonl").is_file()


def test_rank_and_spread_are_of_the_last_batch_of_global_views():
    monitor, generator = EmbeddingMonitor(num_global_views=2), torch.Generator().manual_seed(0)
    assert monitor.measure() == {}
    first, last = (torch.randn(5, 30, 8, generator=generator, requires_grad=True) for _ in range(2))
    monitor.observe(first, None)
    monitor.observe(last, None)
    assert monitor.measure() == rank_and_spread(last[:2].flatten(0, 1))
