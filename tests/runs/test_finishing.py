import json
import re
import signal
import subprocess
import sys
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from datasets import IterableDataset
from PIL import Image
from transformers import AutoModel

from lejepa_hf import LeJEPAForPreTraining, MultiCropCollator, MultiCropTransform, export_encoder
from lejepa_hf.data.sources import ImageSource, load_source
from lejepa_hf.data.streaming import EndlessRows
from lejepa_hf.evaluation.embedding_statistics import embedding_statistics
from lejepa_hf.evaluation.projections import extract_projections
from lejepa_hf.runs import final_evaluation, finishing
from lejepa_hf.runs.final_evaluation import FinalEvaluation
from lejepa_hf.runs.finishing import RunNotFinished, finish_run, measure_projections
from lejepa_hf.system.run_folder import RunFolder


def test_projections_are_measured_on_the_first_images_of_the_run(untrained):
    folder, recipe = untrained
    found = measure_projections(folder, recipe, num_images=50)
    rows = EndlessRows(load_source("digits").dataset, batch_size=50, seed=7)
    collator = MultiCropCollator(MultiCropTransform.from_settings(recipe.data, seed=7))
    model = LeJEPAForPreTraining.from_pretrained(folder / "pretraining")
    expected = extract_projections(model, islice(rows, 50), collator, recipe.training.per_device_train_batch_size)
    assert expected.shape == (8, 50, 8)
    assert found.metrics() == pytest.approx(embedding_statistics(expected, num_knots=4, t_max=1.0).metrics(), rel=1e-3)
    assert json.loads((folder / "statistics.json").read_text()) == {"num_images": 50, **found.metrics()}


def test_a_stream_is_read_no_further_than_needed(untrained, monkeypatch):
    folder, recipe = untrained
    scan, read = load_source("digits").dataset[0]["image"], []

    def rows():
        for number in range(3000):
            read.append(number)
            yield {"image": scan}

    source = ImageSource(IterableDataset.from_generator(rows), "endless", "image")
    monkeypatch.setattr(finishing, "training_source", lambda data: source)
    assert measure_projections(folder, recipe, num_images=20).num_images == 20
    assert len(read) <= 100  # rows are read 32 at a time


def test_images_that_a_stream_has_not_are_not_repeated(untrained):
    folder, recipe = untrained
    images = folder / "images"
    images.mkdir()
    for number in range(12):
        Image.new("RGB", (20, 20), (20 * number, 0, 0)).save(images / f"{number}.png")
    recipe = replace(recipe, data=replace(recipe.data, dataset=str(images), streaming=True))
    assert measure_projections(folder, recipe, num_images=100).num_images == 12


@pytest.mark.slow
def test_what_fails_after_training_takes_nothing_else_with_it(untrained, monkeypatch, caplog):
    """As where the home of `evaluate` cannot be written: the evaluation fails, all else is there."""
    folder, recipe = untrained

    def fail(*arguments):
        raise PermissionError(13, "Permission denied", "/nonexistent/home")

    monkeypatch.setattr(final_evaluation, "measure_column", fail)
    run = RunFolder(folder)
    run.write_start(recipe.resolved())
    run.metrics.write_text(json.dumps({"step": 1, "prediction_loss": 1.0, "sigreg_loss": 2.0}) + "\n")
    recipe = replace(recipe, data=replace(recipe.data, eval_split="test"))
    facts = {"steps": 1, "global_batch": 8}
    with pytest.raises(RunNotFinished) as error:
        finish_run(recipe, facts, load_source("digits", "test"))
    message = str(error.value)
    assert "is trained and its model is kept, but the evaluation could not be made ([Errno 13]" in message
    assert f"`lejepa evaluate {run.encoder} --dataset digits`" in message  # there is no checkpoint to resume from
    kept = (run.encoder / "model.safetensors", run.encoder / "README.md", run.statistics, run.report, run.metrics)
    assert all(path.stat().st_size for path in (*kept, run.picture("losses"), run.picture("pca_maps")))
    assert not run.results.exists()
    assert "the evaluation could not be made" in caplog.text


@pytest.mark.slow
def test_broken_images_are_not_counted_as_measured(untrained):
    folder, recipe = untrained
    rng = np.random.default_rng(0)
    for number in range(24):
        file = folder / "images" / ("train", "test")[number % 2] / ("a", "b")[number // 2 % 2] / f"{number:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(file)
        if number in (0, 1, 3):
            file.write_bytes(b"nothing")
    data = replace(recipe.data, dataset=str(folder / "images"), eval_split="test", eval_protocols=["knn"])
    run = RunFolder(folder)
    run.metrics.write_text("", encoding="utf-8")
    export_encoder(folder)
    facts = {"steps": 1, "global_batch": 8}
    held_out = load_source(data.dataset, "test")
    for make in FinalEvaluation(run, replace(recipe, data=data), facts, held_out).parts().values():
        make()
    found = run.read_results()["run"]
    assert (found["num_train_images"], found["num_eval_images"]) == (11, 10)


@pytest.mark.slow
def test_a_picture_that_cannot_be_drawn_costs_nothing_else(untrained, monkeypatch, caplog):
    folder, recipe = untrained

    def fail(*arguments):
        raise ValueError("no such colour")

    for module, names in (
        (finishing, ("draw_losses", "draw_gaussianity")),
        (final_evaluation, ("draw_few_shot", "draw_confusion")),
    ):
        for name in names:
            monkeypatch.setattr(module, name, fail)
    run = RunFolder(folder)
    run.write_start(recipe.resolved())
    row = {"step": 1, "prediction_loss": 1.0, "sigreg_loss": 2.0, "images_per_second": 5.0}
    run.metrics.write_text(json.dumps(row) + "\n")
    recipe = replace(recipe, data=replace(recipe.data, eval_split="test", eval_protocols=["knn"]))
    facts = {"steps": 1, "global_batch": 8, "epochs": 0.1, "encoder_parameters": 9, "device": "CPU"}
    finish_run(recipe, facts | {"energy_source": None}, load_source("digits", "test"))
    assert all(path.is_file() for path in (run.encoder / "README.md", run.results, run.statistics, run.report))
    assert run.picture("embeddings").is_file() and run.picture("neighbours").is_file()
    assert not run.picture("confusion").exists()
    assert caplog.text.count("is left out: no such colour") == 4


@pytest.mark.slow
def test_a_kill_after_training_costs_only_what_follows(tmp_path, tiny_resnet):
    """As by a cluster whose time is over: encoder and card are written before any picture and figure."""
    recipe = tmp_path / "recipe.yaml"
    settings = ["dataset: digits", "eval_split: test", "use_cpu: true", "max_steps: 3", "save_steps: 3"]
    settings += ["per_device_train_batch_size: 16", "global_crop_size: 16", "local_crop_size: 12"]
    settings += ["projector_dims: [16, 8]", f"backbone_config: {json.dumps(tiny_resnet)}"]
    recipe.write_text("\n".join(settings) + "\n", encoding="utf-8")
    run = RunFolder(tmp_path / "run")
    command = [sys.executable, "-m", "lejepa_hf", "train", str(recipe), "--output_dir", str(run.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout:
            if "/" in line and line.strip().endswith("losses.png"):  # it is being drawn
                process.kill()
                break
        process.stdout.read()
    assert process.returncode == -signal.SIGKILL
    assert AutoModel.from_pretrained(run.encoder).config.model_type == "resnet"
    assert "# " in (run.encoder / "README.md").read_text(encoding="utf-8")
    assert not run.results.exists() and not run.report.exists()
    done = subprocess.run([*command, "--resume"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert run.results.is_file() and run.report.is_file() and run.picture("neighbours").is_file()
    names = [line.split()[1] for line in done.stdout.splitlines() if re.match(r" +\d+/\d+ ", line)]
    assert names[0] == "encoder/" and names[-1] == "report.html"
