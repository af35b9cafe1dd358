from dataclasses import replace

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from lejepa_hf.data.sources import load_source
from lejepa_hf.evaluation.protocols import segmentation_maps
from lejepa_hf.evaluation.protocols.segmentation import segmentation
from lejepa_hf.hub.export import build_processor

COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
SETTINGS = {"learning_rates": (0.1,), "num_epochs": 20}


class Pixels(PreTrainedModel):
    """An encoder whose feature map is the image."""

    config_class = PreTrainedConfig

    def __init__(self, num_channels: int = 3):
        super().__init__(PreTrainedConfig(num_channels=num_channels, image_size=8))
        self.one = torch.nn.Parameter(torch.ones(1))

    def forward(self, pixel_values):
        return BaseModelOutput(last_hidden_state=self.one * pixel_values)


def a_source(number: int, seed: int, size=(8, 8), coloured: bool = True, values=(0, 1, 2), squares: int = 2):
    """Squares of three classes in their colours, or in any."""
    rng, images, masks = np.random.default_rng(seed), [], []
    for _ in range(number):
        height, width = size
        classes = np.kron(rng.integers(0, 3, (squares, squares)), np.ones((height // squares, width // squares), int))
        shown = classes if coloured else rng.integers(0, 3, size)
        images.append(Image.fromarray(COLOURS[shown]))
        masks.append(Image.fromarray(np.array(values, np.uint8)[classes]))
    features = datasets.Features({"image": datasets.Image(), "mask": datasets.Image()})
    dataset = datasets.Dataset.from_dict({"image": images, "mask": masks}, features=features)
    return load_source(dataset, image_column="image", label_column="mask")


@pytest.fixture
def processor():
    return build_processor(8, crop_ratio=0.5)  # of which no part may be cropped away


def test_a_map_that_tells_the_class(processor):
    results = segmentation(Pixels(), processor, a_source(40, 0), a_source(20, 1), **SETTINGS)
    assert list(results) == [
        f"eval_segmentation_{name}" for name in ("miou", "miou_ci95", "accuracy", "accuracy_ci95")
    ]
    assert results["eval_segmentation_miou"] > 0.99 and results["eval_segmentation_accuracy"] > 0.99
    assert results["eval_segmentation_miou_ci95"] < 0.02


def test_a_map_that_tells_nothing(processor):
    parts = a_source(40, 0, coloured=False), a_source(40, 1, coloured=False)
    results = segmentation(Pixels(), processor, *parts, **SETTINGS)
    assert results["eval_segmentation_accuracy"] == pytest.approx(1 / 3, abs=0.08)
    assert results["eval_segmentation_miou"] < 0.3
    assert 0.01 < results["eval_segmentation_miou_ci95"] < 0.1  # images are few and differ


def test_masks_keep_their_size_and_shape(processor):
    parts = a_source(40, 0, size=(12, 20)), a_source(20, 1, size=(32, 8))
    results = segmentation(Pixels(), processor, *parts, **SETTINGS)
    assert results["eval_segmentation_miou"] > 0.99


def test_small_things_need_resolution(processor):
    parts = [a_source(40, seed, size=(32, 32), squares=16) for seed in (0, 1)]
    coarse = segmentation(Pixels(), processor, *parts, **SETTINGS)
    fine = segmentation(Pixels(), processor, *parts, resolution=32, **SETTINGS)
    assert coarse["eval_segmentation_miou"] < 0.7 and fine["eval_segmentation_miou"] > 0.99


def test_what_says_nothing_is_no_class(processor):
    parts = [a_source(40, seed, values=(0, 50, 255)) for seed in (0, 1)]
    results = segmentation(Pixels(), processor, *parts, ignore_labels=(0, 255), **SETTINGS)
    assert results["eval_segmentation_miou"] == 1  # one class is left
    two = segmentation(Pixels(), processor, *parts, ignore_labels=(255,), **SETTINGS)
    assert two["eval_segmentation_miou"] > 0.99
    with pytest.raises(ValueError, match="'mask' of .* holds no usable mask: all their pixels are ignored"):
        segmentation(Pixels(), processor, *parts, ignore_labels=(0, 50, 255))


def test_computed_anew_is_like_kept(processor, monkeypatch, caplog):
    caplog.set_level("INFO", "lejepa_hf")
    parts = a_source(40, 0, coloured=False), a_source(20, 1, coloured=False)
    settings = {"learning_rates": (1e-3, 1e-1), "num_epochs": 2}
    kept = segmentation(Pixels(), processor, *parts, **settings)
    monkeypatch.setattr(segmentation_maps, "_KEPT", 0)
    anew = segmentation(Pixels(), processor, *parts, **settings)
    assert "computed again for each pass" in caplog.text
    assert anew == pytest.approx(kept, abs=0.01)
    assert "the best of 2 on 4 training images" in caplog.text


def test_is_deterministic_and_leaves_everything_alone(processor):
    encoder, parts = Pixels(), (a_source(20, 0, coloured=False), a_source(10, 1, coloured=False))
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = segmentation(encoder, processor, *parts, num_epochs=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)
    assert segmentation(encoder, processor, *parts, num_epochs=1) == first
    assert encoder.one.item() == 1 and encoder.one.grad is None


def test_more_than_three_channels():
    features = datasets.Features({"image": datasets.Array3D((8, 8, 5), "uint8"), "mask": datasets.Image()})
    rng = np.random.default_rng(0)
    arrays = rng.integers(0, 256, (40, 8, 8, 5), dtype=np.uint8)
    rows = [{"image": array, "mask": Image.fromarray((array[..., 4] > 127).astype(np.uint8))} for array in arrays]
    dataset = datasets.Dataset.from_list(rows, features=features)
    parts = [
        load_source(part, image_column="image", label_column="mask")
        for part in (dataset.select(range(30)), dataset.select(range(30, 40)))
    ]
    processor = build_processor(8, crop_ratio=1.0, image_mean=[0.5] * 5)
    results = segmentation(Pixels(5), processor, *parts, **SETTINGS)
    assert results["eval_segmentation_accuracy"] > 0.95


def test_broken_rows_are_left_out(processor, caplog):
    train, test = a_source(40, 0), a_source(20, 1)
    rows = train.dataset.to_list()
    rows[3]["image"]["bytes"], rows[5]["mask"]["bytes"] = b"no image", b"no mask"
    torn = datasets.Dataset.from_list(rows, features=train.dataset.features)
    results = segmentation(Pixels(), processor, replace(train, dataset=torn), test, **SETTINGS)
    assert results["eval_segmentation_miou"] > 0.99
    assert "row 3 is broken and left out" in caplog.text


def test_a_size_that_the_encoder_does_not_take(tiny_vit, processor):
    from transformers import AutoConfig, AutoModel

    encoder = AutoModel.from_config(AutoConfig.for_model(**tiny_vit), add_pooling_layer=False)
    with pytest.raises(ValueError, match="`resolution` 2: this vit encoder cannot make a feature map"):
        segmentation(encoder, processor, a_source(2, 0), a_source(2, 1), resolution=2)


def test_a_processor_that_crops_always(processor):
    class Cropping:
        def __call__(self, images, return_tensors, do_convert_rgb=None):
            return {"pixel_values": torch.zeros(len(images), 3, 8, 8)}

    with pytest.raises(ValueError, match="the Cropping of this encoder always resizes or crops"):
        segmentation(Pixels(), Cropping(), a_source(2, 0), a_source(2, 1))
