import logging
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoConfig, AutoModel

from lejepa_hf.data.sources import load_source
from lejepa_hf.evaluation.protocols import fine_tuning
from lejepa_hf.evaluation.protocols.fine_tuning import FineTune, FineTuneLong, square_crop


@pytest.fixture(scope="module")
def few_digits():
    sources = [load_source("digits", split) for split in ("train", "test")]
    return tuple(replace(source, dataset=source.dataset.select(range(200))) for source in sources)


@pytest.fixture
def encoder(tiny_resnet):
    torch.manual_seed(0)
    return AutoModel.from_config(AutoConfig.for_model(**tiny_resnet)).eval()


def test_learns_and_leaves_the_encoder_alone(encoder, processor, few_digits, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    results = FineTune(5e-3, num_epochs=15).run(encoder, processor, *few_digits)
    assert list(results) == [f"eval_finetune_{name}" for name in ("top1", "top1_ci95", "top5", "top5_ci95")]
    assert results["eval_finetune_top1"] > 0.5 and results["eval_finetune_top5"] > 0.9
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())
    assert not encoder.training and all(parameter.grad is None for parameter in encoder.parameters())
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr().out == ""


@pytest.mark.slow
def test_more_than_a_head_is_trained(encoder, processor, few_digits):
    protocol = FineTune(5e-3, num_epochs=8)
    whole = protocol.run(encoder, processor, *few_digits)
    head = protocol.run(encoder.requires_grad_(False), processor, *few_digits)
    assert whole["eval_finetune_top1"] > head["eval_finetune_top1"] + 0.1


def test_is_deterministic_and_leaves_the_global_rngs_alone(encoder, processor, few_digits):
    few = tuple(replace(source, dataset=source.dataset.select(range(64))) for source in few_digits)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    protocol = FineTune(5e-4, num_epochs=1)
    first = protocol.run(encoder, processor, *few)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1] and np.random.get_state()[1].tolist() == states[2]
    torch.manual_seed(9)
    assert protocol.run(encoder, processor, *few) == first


def test_a_vit_and_broken_images(tiny_vit, processor, few_digits, caplog):
    torch.manual_seed(0)
    encoder = AutoModel.from_config(AutoConfig.for_model(**tiny_vit), add_pooling_layer=False)
    encoder.config.embedding_pooling = "cls"
    train, test = few_digits
    rows = train.dataset.select(range(30)).to_list()
    rows[3]["image"]["bytes"] = b"no image"
    torn = replace(train, dataset=type(train.dataset).from_list(rows, features=train.dataset.features))
    results = FineTune(5e-4, num_epochs=1).run(encoder, processor, torn, test)
    assert 0 <= results["eval_finetune_top1"] <= results["eval_finetune_top5"] <= 1
    assert "a broken image is left out" in caplog.text


@pytest.mark.slow
def test_learning_rate_is_chosen_on_training_images(encoder, processor, few_digits, caplog, monkeypatch):
    caplog.set_level(logging.INFO, "lejepa_hf")
    train, test = few_digits
    monkeypatch.setattr(fine_tuning, "LEARNING_RATES", (1e-6, 5e-3))
    chosen = FineTune(num_epochs=15).run(encoder, processor, train, test)
    assert "learning rate 0.005, best of 2 on 20 training images" in caplog.text
    assert chosen == FineTune(5e-3, num_epochs=15).run(encoder, processor, train, test)
    # Test images choose nothing: others leave the choice as it is.
    monkeypatch.setattr(fine_tuning, "LEARNING_RATES", (5e-3, 1e-6))
    few = replace(test, dataset=test.dataset.select(range(5)))
    FineTune(num_epochs=1).run(encoder, processor, train, few)
    assert "learning rate 0.005, best of 2 on 20 training images" in caplog.messages[-1]


def test_crops_are_squares_within_the_image(monkeypatch):
    image = Image.fromarray(np.arange(20 * 40, dtype=np.int32).reshape(20, 40))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)  # it was checked when the image was opened
    assert square_crop(image, 1, 0, 0).size == (20, 20)
    assert square_crop(image, 0, 1, 1).size == (14, 14)
    assert np.asarray(square_crop(image, 0, 1, 1)).max() == 799  # the last pixel
    array = np.arange(8 * 8 * 5).reshape(8, 8, 5)
    assert (square_crop(array, 0, 0, 0) == array[:6, :6]).all()
    assert square_crop(array, 1, 0.5, 0.5).shape == (8, 8, 5)


@pytest.mark.slow
def test_the_recipe_of_papers(tiny_vit, processor, few_digits, caplog):
    caplog.set_level(logging.INFO, "lejepa_hf")
    torch.manual_seed(0)
    encoder = AutoModel.from_config(AutoConfig.for_model(**tiny_vit), add_pooling_layer=False).eval()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    results = FineTuneLong(5e-3, num_epochs=2).run(encoder, processor, *few_digits)
    assert list(results)[:2] == ["eval_finetune_long_top1", "eval_finetune_long_top1_ci95"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())
    assert FineTuneLong(5e-3, num_epochs=2).run(encoder, processor, *few_digits) == results
