import logging

import datasets
import pytest
import torch
from transformers import AutoConfig, AutoImageProcessor, AutoModel, BitImageProcessor

from lejepa_hf import (
    LeJEPAConfig,
    LeJEPAForPreTraining,
    LeJEPATrainer,
    LeJEPATrainingArguments,
    MultiCropCollator,
    MultiCropTransform,
    export_encoder,
)
from lejepa_hf.data.sources import load_source
from lejepa_hf.training.trainer_defaults import default_arguments, fitting_views, starting_model, with_columns

MEAN, STD = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]


@pytest.fixture
def scans() -> datasets.Dataset:
    """Forty images under a name of their own, decoded as `datasets` gives them to everybody."""
    digits = load_source("digits").dataset.select(range(40))
    return digits.rename_column("image", "scan").cast_column("scan", datasets.Image())


def equal(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    values = other.state_dict()
    return all(torch.equal(value, values[name]) for name, value in one.state_dict().items())


def test_a_name_and_images_are_enough(tmp_path, monkeypatch, caplog, tiny_vit, scans):
    monkeypatch.chdir(tmp_path)
    backbone = AutoModel.from_config(AutoConfig.for_model(**tiny_vit), add_pooling_layer=False)
    backbone.save_pretrained("tiny")
    BitImageProcessor(image_mean=MEAN, image_std=STD).save_pretrained("tiny")
    with caplog.at_level(logging.INFO, "lejepa_hf"):
        trainer = LeJEPATrainer(model="tiny", train_dataset=scans)
    assert "5,000 steps of 32 images, in runs/tiny: no `args` are given." in caplog.text
    assert equal(trainer.model.encoder.backbone, backbone)
    collator = trainer.data_collator
    assert (collator.image_column, collator.label_column) == ("scan", "label")
    views = collator.transform
    assert (views.global_crop_size, views.local_crop_size, views.blur_probability) == (16, 8, 0.0)
    assert (views.image_mean, views.image_std) == (MEAN, STD)
    next(iter(trainer.get_train_dataloader()))

    assert export_encoder(trainer).as_posix() == "runs/tiny/encoder"
    trainer.save_model()
    for folder in ("runs/tiny/encoder", "runs/tiny"):
        processor = AutoImageProcessor.from_pretrained(folder)
        assert processor.crop_size["height"] == 16 and list(processor.image_mean) == MEAN
    assert "No processor" not in caplog.text


def test_what_is_given_is_kept(tmp_path, tiny_resnet, scans):
    args = LeJEPATrainingArguments(str(tmp_path), max_steps=1, per_device_train_batch_size=4, use_cpu=True)
    views = MultiCropTransform(global_crop_size=24, local_crop_size=16, num_local_views=1, image_mean=MEAN)
    config = AutoConfig.for_model(**tiny_resnet)
    trainer = LeJEPATrainer(config, args, scans, MultiCropCollator(views, "scan"))
    assert trainer.data_collator.transform is views and trainer.data_collator.label_column is None
    trainer.train()
    processor = BitImageProcessor(crop_size={"height": 20, "width": 20})
    for given, size in ((None, 24), (processor, 20)):
        folder = export_encoder(trainer, tmp_path / f"encoder-{size}", given)
        assert AutoImageProcessor.from_pretrained(folder).crop_size["height"] == size
    with pytest.raises(TypeError, match="`run_or_model` must be a run folder, .* got ResNetConfig"):
        export_encoder(config, tmp_path / "other")


def test_what_a_training_starts_from(tmp_path, tiny_resnet):
    backbone = AutoConfig.for_model(**tiny_resnet)
    config = LeJEPAConfig(backbone_config=backbone, projector_dims=[8])
    first, again, other = (starting_model(backbone, seed) for seed in (3, 3, 4))
    assert equal(first, again) and not equal(first, other) and first.config.directions_seed == 3
    model = starting_model(config, 0)
    assert model.config.projector_dims == [8] and starting_model(model, 1) is model
    model.save_pretrained(tmp_path / "pretraining")
    assert equal(starting_model(tmp_path / "pretraining", 1), model), "its projector too"
    assert starting_model(None, 0) is None
    with pytest.raises(ValueError, match="`model` 'me/missing' is neither a folder here nor in the cache"):
        starting_model("me/missing", 0)


@pytest.mark.parametrize(("number", "processes", "batch"), [(None, 1, 128), (1000, 1, 128), (127, 1, 64), (40, 2, 16)])
def test_a_batch_that_the_images_fill(monkeypatch, number, processes, batch):
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    found = default_arguments("facebook/dinov2-small", number)
    assert found["per_device_train_batch_size"] == batch and found["output_dir"] == "runs/dinov2-small"


def test_columns_are_found_among_several(scans):
    files = scans.cast_column("scan", datasets.Image(decode=False))
    several = scans.add_column("mask", list(files["scan"]), feature=datasets.Image())
    with pytest.raises(ValueError, match="has 2 image columns"):
        with_columns(several)
    named = several.rename_column("scan", "image")
    assert with_columns(named)[1:] == ("image", "label")
    rows = [{"image": None}]
    assert with_columns(rows) == (rows, "image", None)


def test_views_of_a_large_backbone_are_the_published_ones():
    dinov2 = {"model_type": "dinov2", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = AutoConfig.for_model(**dinov2, image_size=518, patch_size=14)
    views = fitting_views(LeJEPAForPreTraining(LeJEPAConfig(backbone_config=config, projector_dims=[8])), seed=5)
    assert views == MultiCropTransform(local_crop_size=98, seed=5)
