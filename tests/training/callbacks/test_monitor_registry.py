import re
from pathlib import Path

import pytest
from monitored_run import monitored, rows

from lejepa_hf import LeJEPATrainingArguments
from lejepa_hf.training.callbacks.monitor_registry import MONITORS

CONTRIBUTING = Path(__file__).parents[3] / "CONTRIBUTING.md"


@pytest.fixture
def norm(monkeypatch):
    """The monitor that CONTRIBUTING.md shows, in the registry for one test."""
    section = CONTRIBUTING.read_text(encoding="utf-8").split("## A new monitor")[1]
    for name, value in MONITORS.items():
        monkeypatch.setitem(MONITORS, name, value)
    exec(re.search(r"```python\n(.*?)```", section, re.DOTALL)[1], {})
    yield
    del MONITORS["norm"]


def test_the_example_of_the_page_is_a_monitor(tmp_path, norm):
    trainer = monitored(tmp_path, monitors=["embeddings", "norm"], max_steps=2, eval_strategy="no")
    trainer.train()
    assert all(row["embedding_norm"] > 0 and row["effective_rank"] > 0 for row in rows(trainer))


def test_the_registry_is_what_the_arguments_know(tmp_path):
    assert list(MONITORS) == LeJEPATrainingArguments(output_dir=str(tmp_path), use_cpu=True).monitors
    with pytest.raises(ValueError, match="`monitors`: norm unknown; known are embeddings, probe, knn, health"):
        LeJEPATrainingArguments(output_dir=str(tmp_path), use_cpu=True, monitors=["norm"])
