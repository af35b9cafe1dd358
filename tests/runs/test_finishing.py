import json
from dataclasses import replace
from itertools import islice

import pytest
from datasets import IterableDataset
from PIL import Image

from lejepa_hf import LeJEPAForPreTraining, MultiCropCollator, MultiCropTransform
from lejepa_hf.data.sources import ImageSource, load_source
from lejepa_hf.data.streaming import EndlessRows
from lejepa_hf.evaluation.embedding_statistics import embedding_statistics
from lejepa_hf.evaluation.projections import extract_projections
from lejepa_hf.runs import final_evaluation, finishing
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
