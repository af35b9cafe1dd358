import datasets
import numpy as np
import pytest
import torch
from coloured_squares import Pixels, a_source, segmentation
from PIL import Image

from lejepa_hf.data.sources import load_source
from lejepa_hf.hub.export import build_processor


@pytest.fixture
def processor():
    return build_processor(8, crop_ratio=0.5)  # of which no part may be cropped away


def test_a_map_that_tells_the_class(processor):
    results = segmentation(Pixels(), processor, a_source(40, 0), a_source(20, 1))
    assert list(results) == [
        f"eval_segmentation_{name}" for name in ("miou", "miou_ci95", "accuracy", "accuracy_ci95")
    ]
    assert results["eval_segmentation_miou"] > 0.99 and results["eval_segmentation_accuracy"] > 0.99
    assert results["eval_segmentation_miou_ci95"] < 0.02


def test_a_map_that_tells_nothing(processor):
    parts = a_source(40, 0, coloured=False), a_source(40, 1, coloured=False)
    results = segmentation(Pixels(), processor, *parts)
    assert results["eval_segmentation_accuracy"] == pytest.approx(1 / 3, abs=0.08)
    assert results["eval_segmentation_miou"] < 0.3
    assert 0.01 < results["eval_segmentation_miou_ci95"] < 0.1  # images are few and differ


def test_masks_keep_their_size_and_shape(processor):
    parts = a_source(40, 0, size=(12, 20)), a_source(20, 1, size=(32, 8))
    results = segmentation(Pixels(), processor, *parts)
    assert results["eval_segmentation_miou"] > 0.99


def test_small_things_need_resolution(processor):
    parts = [a_source(40, seed, size=(32, 32), squares=16) for seed in (0, 1)]
    coarse = segmentation(Pixels(), processor, *parts)
    fine = segmentation(Pixels(), processor, *parts, resolution=32)
    assert coarse["eval_segmentation_miou"] < 0.7 and fine["eval_segmentation_miou"] > 0.99


def test_what_says_nothing_is_no_class(processor):
    parts = [a_source(40, seed, values=(0, 50, 255)) for seed in (0, 1)]
    results = segmentation(Pixels(), processor, *parts, ignore_labels=(0, 255))
    assert results["eval_segmentation_miou"] == 1  # one class is left
    two = segmentation(Pixels(), processor, *parts, ignore_labels=(255,))
    assert two["eval_segmentation_miou"] > 0.99
    with pytest.raises(ValueError, match="'mask' of .* holds no usable mask: all their pixels are ignored"):
        segmentation(Pixels(), processor, *parts, ignore_labels=(0, 50, 255))


def test_is_deterministic_and_leaves_everything_alone(processor):
    encoder, parts = Pixels(), (a_source(20, 0, coloured=False), a_source(10, 1, coloured=False))
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = segmentation(encoder, processor, *parts, learning_rates=(1e-3, 1e-1), num_epochs=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)
    assert segmentation(encoder, processor, *parts, learning_rates=(1e-3, 1e-1), num_epochs=1) == first
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
    results = segmentation(Pixels(5), processor, *parts)
    assert results["eval_segmentation_accuracy"] > 0.95
