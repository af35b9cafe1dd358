import csv
import importlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "studies.md").read_text(encoding="utf-8")
WAYS = ["ours", "minimal"]


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")  # where its script would find the files it shares code with
    module = importlib.import_module("study_equal_time")
    monkeypatch.setattr(module, "RUNS", tmp_path / "runs")
    # Each run's own process would take seconds to start.
    monkeypatch.setattr(module, "alone", lambda options, function, *arguments: function(options, *arguments))
    monkeypatch.setattr(module, "ACCURACIES", {"knn_top1": "k-NN"})  # each linear probe takes 2,000 steps
    yield module
    for name in ("study_equal_time", "study_runs", "benchmark_training"):
        sys.modules.pop(name, None)


@pytest.fixture
def command(tmp_path):
    """A few steps of the digits recipe with a tiny network."""
    backbone = "{model_type: resnet, layer_type: basic, embedding_size: 8, hidden_sizes: [8, 16], depths: [1, 1]}"
    command = ["--recipe", str(ROOT / "recipes" / "digits" / "resnet_tiny.yaml"), "--backbone_config", backbone]
    command += ["--projector_dims", "16", "16", "8", "--num_slices", "16", "--per_device_train_batch_size", "8"]
    command += ["--workers", "0", "--evaluate_at", "0.5", "--results", str(tmp_path / "rows.csv")]
    return command


def read(tmp_path):
    with (tmp_path / "rows.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_rows_of_equal_steps_and_a_study_that_goes_on(study, command, tmp_path, capsys):
    command += ["--steps", "4"]
    assert study.main([*command, "--seeds", "0", "--arms", *WAYS]) == 0
    rows = read(tmp_path)
    assert [(row["arm"], row["steps"]) for row in rows] == [(way, steps) for way in WAYS for steps in ("2", "4")]
    for row in rows:
        assert 0 < float(row["knn_top1"]) <= 100
        speed = 8 * int(row["steps"]) / float(row["seconds"])
        assert float(row["images_per_second"]) == pytest.approx(speed, rel=0.2)  # times are written to 0.01 s
    assert (tmp_path / "rows.png").is_file()
    capsys.readouterr()
    assert study.main([*command, "--seeds", "0", "1", "--arms", *WAYS]) == 0
    assert "run 1 of 2" in capsys.readouterr().out
    later = read(tmp_path)
    assert later[:4] == rows
    # The other way begins with the second seed.
    assert [(row["arm"], row["seed"]) for row in later[4::2]] == [("minimal", "1"), ("ours", "1")]
    table = study.table(later)
    assert len(table) == 4 and table[2].startswith("| steps | ours | 4 |")


def test_a_plain_loop_starts_from_the_weights_of_the_trainer(study, command, tmp_path):
    recipe = study.read_recipe(study.parse([*command, "--steps", "1"]), seed=3, folder=str(tmp_path / "run"))
    trainer, _ = study.build(recipe)
    expected = trainer.model.encoder.state_dict()
    found = study.fresh_model(recipe).encoder.state_dict()
    assert found and all((found[name] == expected[name]).all() for name in expected)


@pytest.mark.slow
def test_rows_of_another_budget_are_refused(study, command, tmp_path, capsys):
    assert study.main([*command, "--steps", "1", "--seeds", "0", "--arms", "minimal"]) == 0
    assert study.main([*command, "--steps", "2", "--seeds", "0", "--arms", "minimal"]) == 2
    assert "rows of another recipe or budget" in capsys.readouterr().err
    assert len(read(tmp_path)) == 1


def test_steps_that_fit_into_the_time(study):
    # The loader starts for 2 seconds, then a step takes half a second.
    times = [2.0 + 0.5 * step for step in range(20)]
    assert study.planned_steps(times, 12.0) == 21
    assert study.planned_steps(times, 1.0) == 1


def test_lightly_with_its_own_colours_and_with_ours(study, command, tmp_path):
    pytest.importorskip("lightly.loss")
    pytest.importorskip("lightly.transforms")
    ways = ["lightly", "lightly with our colours"]
    assert study.main([*command, "--steps", "2", "--seeds", "0", "--arms", *ways]) == 0
    assert {row["arm"] for row in read(tmp_path)} == set(ways)


def test_the_table_of_the_docs_is_that_of_the_rows(study, monkeypatch):
    monkeypatch.setattr(study, "ACCURACIES", {"linear_top1": "linear", "knn_top1": "k-NN"})
    rows = study.read_rows(study.RESULTS / "study_equal_time.csv")
    section = PAGE.split("## The same time")[1].split("\n## ")[0]
    if rows:
        assert "\n".join(study.table(rows)) in section and (ROOT / "docs" / "study_equal_time.png").is_file()
    else:
        assert "# not run yet: " in section
