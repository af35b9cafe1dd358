import copy
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, concatenate_datasets
from datasets import Image as ImageFeature
from monitored_run import RESNET, TRANSFORM, VIT, draw_probe, evaluate_without_batch_norm, monitored, probe_of, rows
from torch.nn import functional as F
from torch.utils.data import Subset

from lejepa_hf import LeJEPAForPreTraining, MultiCropCollator
from lejepa_hf.data.decoding import decode_image
from lejepa_hf.data.sources import load_source
from lejepa_hf.evaluation.embeddings.extraction import LabelledEmbeddings
from lejepa_hf.evaluation.protocols.knn import Knn
from lejepa_hf.evaluation.rank import rank_and_spread

DIGITS = load_source("digits").dataset


def test_evaluations_are_logged(tmp_path):
    trainer = monitored(tmp_path)
    trainer.train()
    found = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    found = [row for row in found if "eval_loss" in row]
    assert [row["step"] for row in found] == [2, 4, 6]
    for row in found:
        parts = 0.95 * row["eval_prediction_loss"] + 0.05 * row["eval_sigreg_loss"]
        assert row["eval_loss"] == pytest.approx(parts, rel=1e-5)
        assert 1 < row["eval_effective_rank"] <= 16 and row["eval_embedding_spread"] > 0
        assert 0 <= row["eval_knn_top1"] <= 1 and 0 <= row["eval_online_probe_top1"] <= 1 and row["eval_runtime"] > 0


@pytest.mark.parametrize("backbone", [pytest.param("resnet", marks=pytest.mark.slow), "vit"])
def test_the_loss_is_that_of_training_on_the_same_views(tmp_path, backbone):
    dropout = {"hidden_dropout_prob": 0.3}
    trainer = monitored(tmp_path, {"resnet": RESNET, "vit": VIT | dropout}[backbone], monitor_images=20)
    trainer.train()  # running statistics are what batches are not
    found = trainer.evaluate()
    held_out = load_source("digits", "test").dataset
    chosen = np.random.default_rng([trainer.args.seed, 0, 0]).permutation(len(held_out))[:20].tolist()
    predictions, sigreg, embeddings = [], [], []
    model = copy.deepcopy(trainer.model).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    # Complete batches as in training: the last one is filled up with the first images. Its SIGReg weighs as its own
    # four images, and the prediction loss is the mean over each image once.
    for part, new in ((chosen[:8], 8), (chosen[8:16], 8), (chosen[16:] + chosen[:4], 4)):
        batch = MultiCropCollator(TRANSFORM)([{**held_out[i], "epoch": 0, "index": i} for i in part])
        output = model(**trainer._prepare_inputs(batch), step=0)
        centres = output.projections[:2, :new].mean(0)
        predictions += (output.projections[:, :new] - centres).square().mean((0, 2)).tolist()
        sigreg.append(new / 20 * output.sigreg_loss.item())
        embeddings.append(output.embeddings[:2, :new].detach())
    assert found["eval_prediction_loss"] == pytest.approx(sum(predictions) / 20, rel=1e-5)
    assert found["eval_sigreg_loss"] == pytest.approx(sum(sigreg), rel=1e-5)
    assert found["eval_loss"] == pytest.approx(0.95 * sum(predictions) / 20 + 0.05 * sum(sigreg), rel=1e-5)
    expected = rank_and_spread(torch.cat(embeddings, dim=1).flatten(0, 1))
    assert found["eval_effective_rank"] == pytest.approx(expected["effective_rank"], rel=1e-4)
    assert found["eval_embedding_spread"] == pytest.approx(expected["embedding_spread"], rel=1e-4)


def test_the_prediction_loss_counts_each_held_out_image_once(tmp_path):
    """Images that fill up the last batch used to be counted twice: 450 images in batches of 64 were 512."""
    model = {"projector_norm": "layer"}  # without batch norm a loss of an image does not depend on its batch
    trainer = monitored(tmp_path, VIT, "label", model=model, monitor_images=450, per_device_train_batch_size=64)
    found = trainer.evaluate()
    held_out = load_source("digits", "test").dataset
    everyone = MultiCropCollator(TRANSFORM)([{**row, "epoch": 0, "index": i} for i, row in enumerate(held_out)])
    with torch.no_grad():
        projections = trainer.model.eval()(**trainer._prepare_inputs(everyone), step=0).projections
    of_images = (projections - projections[:2].mean(0)).square().mean((0, 2))
    assert len(of_images) == 450
    assert found["eval_prediction_loss"] == pytest.approx(of_images.double().mean().item(), rel=1e-5)


def embedded(trainer, split: str, number: int) -> LabelledEmbeddings:
    """The images that an evaluation chooses, by the encoder and the processor alone."""
    source = load_source("digits", split).dataset
    order = np.random.default_rng([trainer.args.seed, 0, 0]).permutation(len(source))[:number]
    chosen = [source[i] for i in order.tolist()]
    images = [decode_image(row["image"]).convert("RGB") for row in chosen]
    pixels = trainer.processing_class(images, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        embeddings = trainer.model.eval().encoder(pixels).pooler_output
    return LabelledEmbeddings(embeddings, torch.tensor([row["label"] for row in chosen]))


def test_knn_is_that_of_the_evaluation_protocol(tmp_path):
    trainer = monitored(tmp_path, monitor_images=100)
    trainer.train()
    found = trainer.evaluate()["eval_knn_top1"]
    expected = Knn().run(embedded(trainer, "train", 400), embedded(trainer, "test", 100))["eval_knn_top1"]
    assert found == pytest.approx(expected, abs=0.011)
    assert found > 0.3  # ten classes


@pytest.mark.slow
def test_the_online_probe_classifies_held_out_images_without_augmentation(tmp_path):
    trainer = monitored(tmp_path, monitor_images=100)
    trainer.train()
    linear = draw_probe(trainer)
    held_out = embedded(trainer, "test", 100)
    inputs = F.layer_norm(held_out.embeddings, (16,))
    expected = ((inputs @ linear.weight.T + linear.bias).argmax(1) == held_out.labels).sum().item() / 100
    assert trainer.evaluate()["eval_online_probe_top1"] == expected
    inputs = inputs.double()  # an online probe that was trained well: the classes' own means
    means = torch.stack([inputs[held_out.labels == label].mean(0) for label in range(10)])
    with torch.no_grad():
        linear.weight.copy_(means), linear.bias.copy_(-means.square().sum(1) / 2)
    expected = (torch.cdist(inputs, means).argmin(1) == held_out.labels).double().mean().item()
    assert trainer.evaluate()["eval_online_probe_top1"] == pytest.approx(expected, abs=0.011)
    assert expected > 0.4


# 24 held-out images with views, the same without augmentation, 96 training images; in batches of 8.
@pytest.mark.parametrize(
    ("monitors", "calls"),
    [(["embeddings"], 3), (["probe"], 3 + 3), (["knn"], 3 + 3 + 12), (["knn", "probe"], 3 + 3 + 12)],
)
def test_held_out_images_are_embedded_once_for_all_accuracies(tmp_path, monitors, calls):
    trainer = monitored(tmp_path, monitors=monitors, eval_strategy="no")
    if "probe" in monitors:
        draw_probe(trainer)
    forward, seen = trainer.model.forward, []
    trainer.model.forward = lambda **inputs: seen.append(inputs) or forward(**inputs)
    found = trainer.evaluate()
    assert ("eval_knn_top1" in found, "eval_online_probe_top1" in found) == ("knn" in monitors, "probe" in monitors)
    assert len(seen) == calls


def test_an_online_probe_that_has_not_learned_is_left_out(tmp_path):
    """At zero it names the first class for every image, a tenth of the digits."""
    best = {"load_best_model_at_end": True, "metric_for_best_model": "online_probe_top1", "save_steps": 2}
    trainer = monitored(tmp_path, eval_on_start=True, **best)
    trainer.train()
    found = {row["step"]: row.get("eval_online_probe_top1") for row in rows(trainer, "eval_loss")}
    assert list(found) == [0, 2, 4, 6] and found.pop(0) is None and None not in found.values()
    assert trainer.state.best_metric == max(found.values())
    # The weights are those of the best step again, the online probe's too.
    assert trainer.evaluate()["eval_online_probe_top1"] == trainer.state.best_metric


@pytest.mark.parametrize("backbone", [pytest.param("resnet", marks=pytest.mark.slow), "vit"])
def test_training_does_not_notice_evaluations(tmp_path, backbone):
    network = {"resnet": RESNET, "vit": VIT | {"hidden_dropout_prob": 0.1}}[backbone]
    often = monitored(tmp_path / "often", network, eval_steps=1)
    often.train()
    never = monitored(tmp_path / "never", network, eval_strategy="no", label_column=None)
    never.train()
    labelled = monitored(tmp_path / "labelled", network, eval_strategy="no")
    labelled.train()
    expected = probe_of(labelled).probe.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in probe_of(often).probe.state_dict().items())
    for name in ("online_probe_top1", "online_probe_loss"):
        assert [row[name] for row in rows(often)] == [row[name] for row in rows(labelled)]
    assert len(rows(often, "eval_loss")) == 6 and not rows(never, "eval_loss")
    expected = never.model.state_dict()  # running statistics of batch norm among them
    assert all(torch.equal(value, expected[name]) for name, value in often.model.state_dict().items())
    assert [row["loss"] for row in rows(often)] == [row["loss"] for row in rows(never)]


def test_an_evaluation_can_be_repeated_and_leaves_the_mode_alone(tmp_path):
    trainer = monitored(tmp_path)
    trainer.model.train()
    first, second = trainer.evaluate(), trainer.evaluate()
    assert trainer.model.training
    del first["eval_runtime"], second["eval_runtime"]
    assert first == second


@pytest.mark.slow
def test_the_best_model_is_that_of_the_lowest_held_out_loss(tmp_path):
    # A rate this large for the last steps makes the model worse than it was.
    trainer = monitored(
        tmp_path, max_steps=8, save_steps=1, eval_steps=1, load_best_model_at_end=True, learning_rate=0.3,
        warmup_steps=6, model={"sigreg_weight": 0.5},
    )  # fmt: skip
    trainer.train()
    losses = {row["step"]: row["eval_loss"] for row in rows(trainer, "eval_loss")}
    best = min(losses, key=losses.get)
    assert best < 8 and trainer.state.best_metric == losses[best]
    assert Path(trainer.state.best_model_checkpoint).name == f"checkpoint-{best}"
    expected = LeJEPAForPreTraining.from_pretrained(tmp_path / f"checkpoint-{best}").state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in trainer.model.state_dict().items())
    assert trainer.evaluate()["eval_loss"] == pytest.approx(losses[best], rel=1e-5)
    again = monitored(
        tmp_path, max_steps=8, save_steps=1, eval_steps=1, load_best_model_at_end=True, model={"sigreg_weight": 0.5}
    )
    again.train(resume_from_checkpoint=tmp_path / "checkpoint-8")  # a finished run
    assert all(torch.equal(value, expected[name]) for name, value in again.model.state_dict().items())


@pytest.mark.parametrize(("number", "batches"), [(24, 3), (17, 3), (5, 1)])
def test_every_image_is_evaluated_in_complete_batches(tmp_path, number, batches):
    """The tail used to be dropped: 450 images in batches of 256 were 256."""
    trainer = monitored(tmp_path, label_column=None, monitor_images=100)
    held_out = load_source("digits", "test").dataset.select(range(number))
    views = []
    forward = trainer.model.forward
    trainer.model.forward = lambda **inputs: views.append(inputs["global_views"]) or forward(**inputs)
    trainer.evaluate(held_out)
    assert [len(batch) for batch in views] == [min(8, number)] * batches
    assert len(torch.cat(views)[:, 0].flatten(1).unique(dim=0)) == number


def unlabelled(number: int) -> Dataset:
    dataset = load_source("digits", "test").dataset.select(range(number))
    return dataset.remove_columns("label").add_column("label", [-1] * number)


def test_without_labels_there_are_no_accuracies(tmp_path, caplog):
    trainer = monitored(tmp_path, label_column=None)
    assert not [name for name in trainer.evaluate() if "top1" in name]
    trainer = monitored(tmp_path, eval_dataset=unlabelled(20))
    draw_probe(trainer)
    assert not [name for name in trainer.evaluate() if "top1" in name]
    assert "Held-out accuracies are left out: too few held-out images have a class number as label." in caplog.text
    trainer = monitored(tmp_path)
    draw_probe(trainer)
    assert [name for name in trainer.evaluate() if "top1" in name] == ["eval_knn_top1", "eval_online_probe_top1"]
    trainer.train_dataset = unlabelled(60)
    assert [name for name in trainer.evaluate(DIGITS) if "top1" in name] == ["eval_online_probe_top1"]
    assert "`eval_knn_top1` is left out: too few training images have a class number as label." in caplog.text


@pytest.mark.parametrize("streaming", [False, True])
def test_fewer_images_than_asked_for(tmp_path, streaming):
    few = load_source("digits", "test").dataset.select(range(5))
    found = monitored(tmp_path, eval_dataset=few.to_iterable_dataset() if streaming else few).evaluate()
    assert math.isfinite(found["eval_loss"])
    with pytest.raises(ValueError, match="`eval_dataset` has 1 images: .* fewer than 2"):
        monitored(tmp_path, eval_dataset=few.select(range(1)))
    generator = few.select(range(1)).to_iterable_dataset()  # does not say how many it has
    generator.info.splits = None
    with pytest.raises(ValueError, match="held-out images are fewer than 2"):
        monitored(tmp_path, eval_dataset=generator).evaluate()


def test_broken_held_out_images_are_passed_over(tmp_path):
    digits = load_source("digits", "test").dataset.select(range(30))
    images = [{"bytes": b"torn", "path": None} if i % 3 == 0 else row["image"] for i, row in enumerate(digits)]
    torn = Dataset.from_dict({"image": images, "label": digits["label"][:]})
    found = monitored(tmp_path, eval_dataset=torn).evaluate()
    assert math.isfinite(found["eval_loss"]) and 0 <= found["eval_knn_top1"] <= 1


@pytest.mark.parametrize("kind", ["with_format", "tuples"])
def test_held_out_images_of_other_kinds(tmp_path, kind):
    """Labels in tensors were none, and tuples had no columns."""
    digits = load_source("digits", "test").dataset.cast_column("image", ImageFeature())
    pairs = Subset([(row["image"], row["label"]) for row in digits], range(len(digits)))
    found = monitored(tmp_path, eval_dataset=pairs if kind == "tuples" else digits.with_format("torch")).evaluate()
    expected = monitored(tmp_path).evaluate()
    for name in ("eval_loss", "eval_knn_top1", "eval_effective_rank"):
        assert found[name] == expected[name]


def test_one_held_out_dataset(tmp_path):
    trainer = monitored(tmp_path)
    held_out = trainer.eval_dataset
    with pytest.raises(ValueError, match="`eval_dataset` must be one dataset of held-out images, got several"):
        trainer.evaluate({"a": held_out})
    assert trainer.evaluate(held_out.select(range(8)), metric_key_prefix="few").keys() >= {"few_loss", "few_knn_top1"}


@pytest.mark.slow
def test_two_processes_agree(tmp_path, two_processes):
    figures = json.loads(two_processes(Path(__file__).parents[2] / "monitored_run.py").strip().splitlines()[-1])
    for name in ("eval_knn_top1", "eval_online_probe_top1"):
        assert {row["step"] for row in figures["figures"] if name in row} == {2, 4, 6}
    found, alone = figures["evaluation"], evaluate_without_batch_norm(tmp_path)
    assert found["eval_prediction_loss"] == pytest.approx(alone["eval_prediction_loss"], rel=1e-5)
    for name in ("eval_knn_top1", "eval_online_probe_top1"):  # 11 and 10 images: not the mean of two accuracies
        assert found[name] == alone[name] and 0 < alone[name] < 1


def test_training_images_among_the_held_out_ones_are_named(tmp_path, caplog):
    assert "eval_shared_images" not in monitored(tmp_path).evaluate()
    mixed = concatenate_datasets([load_source("digits", "test").dataset.select(range(20)), DIGITS.select(range(4))])
    found = monitored(tmp_path, eval_dataset=mixed).evaluate()
    assert found["eval_shared_images"] == 4
    assert caplog.text.count("`eval_dataset`: 4 of 24 held-out images are also training images, byte for byte") == 1


def test_embeddings_that_are_not_finite_are_no_figure(tmp_path):
    trainer = monitored(tmp_path, VIT)
    with torch.no_grad():
        trainer.model.encoder.backbone.layernorm.bias[0] = math.nan
    with pytest.raises(FloatingPointError, match="Step 0: 24 of 24 images of the evaluation have NaN or infinite"):
        trainer.evaluate()
    trainer = monitored(tmp_path)  # losses use the statistics of the batch, k-NN the running ones
    norm = next(module for module in trainer.model.modules() if isinstance(module, torch.nn.BatchNorm2d))
    norm.running_mean[0] = math.nan
    with pytest.raises(FloatingPointError, match="24 of 24 images of the evaluation"):
        trainer.evaluate()
