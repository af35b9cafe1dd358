import json
from dataclasses import replace

import pytest
from datasets import DatasetDict, concatenate_datasets
from huggingface_hub import ModelCard

from lejepa_hf.data.sources import load_source
from lejepa_hf.evaluation.baselines import ENCODER, PIXELS, UNTRAINED
from lejepa_hf.hub.export import build_processor, export_encoder
from lejepa_hf.runs import final_evaluation
from lejepa_hf.runs.final_evaluation import FinalEvaluation
from lejepa_hf.runs.finishing import RunNotFinished, finish_run
from lejepa_hf.runs.recipe_sources import held_out_source
from lejepa_hf.system.run_folder import RunFolder

FACTS = {"steps": 1, "global_batch": 8, "epochs": 0.1, "device": "1 CPU threads", "encoder_parameters": 7}
FACTS |= {"energy_source": None}


@pytest.fixture
def finished(untrained):
    """The folder of a run before its evaluation, its recipe, and its held-out images."""
    folder, recipe = untrained
    digits = {split: load_source("digits", split).dataset.select(range(60)) for split in ("train", "test")}
    DatasetDict(digits).save_to_disk(folder / "images")
    data = replace(recipe.data, dataset=str(folder / "images"), eval_split="test", eval_protocols=["knn"])
    recipe = replace(recipe, data=data)
    run = RunFolder(folder)
    run.write_start(recipe.resolved())
    build_processor(16, crop_ratio=1.0).save_pretrained(run.pretraining)
    row = {"step": 1, "prediction_loss": 1.0, "sigreg_loss": 2.0, "images_per_second": 4.0}
    run.metrics.write_text(json.dumps(row) + "\n")
    return run, recipe, load_source(folder / "images", "test")


def columns_written(run: RunFolder) -> list[str]:
    results = run.read_results()
    return list(results["rows"]) if results else []


@pytest.mark.slow
def test_figures_are_written_before_the_next_column_begins(finished, monkeypatch):
    run, recipe, held_out = finished
    export_encoder(run.path)
    before, measure = [], final_evaluation.measure_column

    def watched(prepare, name, *others):
        before.append((name, columns_written(run)))
        return measure(prepare, name, *others)

    monkeypatch.setattr(final_evaluation, "measure_column", watched)
    for make in FinalEvaluation(run, recipe, FACTS, held_out).parts().values():
        make()
    assert before == [(ENCODER, []), (UNTRAINED, [ENCODER]), (PIXELS, [ENCODER, UNTRAINED])]
    results = run.read_results()
    assert list(results["rows"]) == [ENCODER, UNTRAINED, PIXELS] and results["encoder"] == results["rows"][ENCODER]
    assert results["run"]["shared_images"] == {"number": 0, "compared": 60}
    assert results["run"]["train_seconds"] == 2.0 and results["run"]["num_eval_images"] == 60
    assert PIXELS in results["table"] and results["held_out"]["effective_rank"] > 1
    assert all(run.picture(name).is_file() for name in ("embeddings", "confusion", "neighbours"))


@pytest.mark.slow
def test_an_error_in_a_baseline_costs_that_baseline_alone(finished, monkeypatch, caplog):
    run, recipe, held_out = finished
    measure = final_evaluation.measure_column

    def failing(prepare, name, *others):
        if name == UNTRAINED:
            raise MemoryError("no room for it")
        return measure(prepare, name, *others)

    monkeypatch.setattr(final_evaluation, "measure_column", failing)
    with pytest.raises(RunNotFinished, match=f"but the baseline '{UNTRAINED}' could not be made .*no room for it"):
        finish_run(recipe, FACTS, held_out)
    assert columns_written(run) == [ENCODER, PIXELS]
    assert f"the baseline '{UNTRAINED}' could not be made: no room for it" in caplog.text
    assert "## Results" in (run.encoder / "README.md").read_text(encoding="utf-8")
    assert f"The baseline &#39;{UNTRAINED}&#39;" in run.report.read_text(encoding="utf-8")


@pytest.mark.slow
def test_without_the_encoder_there_is_no_table(finished, monkeypatch):
    run, recipe, held_out = finished

    def failing(prepare, name, *others):
        assert name == ENCODER, "baselines of nothing"
        raise MemoryError("no room for it")

    monkeypatch.setattr(final_evaluation, "measure_column", failing)
    with pytest.raises(RunNotFinished, match="kept, but the evaluation could not be made"):
        finish_run(recipe, FACTS, held_out)
    assert not run.results.exists()


@pytest.mark.slow
def test_training_images_among_the_held_out_ones_stand_beside_the_figures(finished):
    run, recipe, held_out = finished
    train = load_source("digits", "train").dataset
    held_out.dataset = concatenate_datasets([held_out.dataset, train.select(range(3))])
    finish_run(recipe, FACTS, held_out)
    assert run.read_results()["run"]["shared_images"] == {"number": 3, "compared": 63}
    sentence = "3 of 63 held-out images are also training images, byte for byte"
    card = ModelCard.load(run.encoder / "README.md")
    assert sentence in card.text and "which pretraining did not use" not in card.text
    assert all(result.task_name.endswith(sentence) for result in card.data.eval_results)
    assert sentence in run.report.read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("streaming", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_share_without_labels_has_all_but_accuracies(untrained, streaming):
    folder, recipe = untrained
    images = folder / "images"
    for number, row in enumerate(load_source("digits").dataset.select(range(40))):
        (images / f"{number:02}.png").parent.mkdir(exist_ok=True)
        (images / f"{number:02}.png").write_bytes(row["image"]["bytes"])
    data = replace(recipe.data, dataset=str(images), eval_split="20%", streaming=streaming)
    recipe = replace(recipe, data=data)
    run = RunFolder(folder)
    run.write_start(recipe.resolved())
    build_processor(16, crop_ratio=1.0).save_pretrained(run.pretraining)
    logged = [{"step": 1, "prediction_loss": 1.0, "sigreg_loss": 2.0, "images_per_second": 4.0}]
    losses = {"eval_loss": 0.1234, "eval_prediction_loss": 0.1, "eval_sigreg_loss": 2.5, "eval_effective_rank": 3.0}
    logged += [{"step": 1, **losses}]
    run.metrics.write_text("".join(json.dumps(row) + "\n" for row in logged))
    finish_run(recipe, FACTS, held_out_source(data))
    assert all(run.picture(name).is_file() for name in ("losses", "pca_maps", "gaussianity"))
    assert all(run.picture(name).is_file() for name in ("embeddings", "neighbours"))
    results = run.read_results()
    assert (results["rows"], results["encoder"]) == ({}, {}) and results["held_out"]["effective_rank"] > 1
    assert (results["run"]["train_split"], results["run"]["eval_split"]) == ("train without 20%", "20% of train")
    if not streaming:
        assert (results["run"]["num_train_images"], results["run"]["num_eval_images"]) == (32, 8)
    card = ModelCard.load(run.encoder / "README.md")
    rank = f"{results['held_out']['effective_rank']:.1f}"
    assert f"Effective rank of their embeddings, on up to 512 of them: {rank}; loss at step 1: 0.1234." in card.text
    number = "Images" if streaming else "8 images"
    assert f"{number} of local images, split `20% of train`, which pretraining did not use, without" in card.text
    assert "No accuracies of these weights were measured" in card.text and "## Results" not in card.text
    assert card.data.eval_results is None and card.text.count("![") == 5
    report = run.report.read_text(encoding="utf-8")
    assert "Accuracies: the held-out images have no labels." in report and report.count("<img") == 4
    assert "held-out loss" in report and f"<strong>{rank}</strong>" in report and "baseline" not in report
