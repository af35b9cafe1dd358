from dataclasses import replace

import datasets
import numpy as np
import pytest
import torch
from coloured_squares import Pixels, a_source
from PIL import Image
from torch import nn
from torch.nn import functional as F

from lejepa_hf.data.errors import DataError
from lejepa_hf.evaluation.feature_extractor import FeatureExtractor
from lejepa_hf.evaluation.protocols import segmentation_dinov2 as module
from lejepa_hf.evaluation.protocols.segmentation_crops import SegmentationCrops
from lejepa_hf.evaluation.protocols.sliding_window import average_windows, window_corners
from lejepa_hf.hub.export import build_processor


def measured(*arguments, num_epochs: int = 10, **settings) -> dict[str, float]:
    return module.SegmentationDinov2(num_epochs=num_epochs, **settings).run(*arguments)


@pytest.fixture
def small():
    return build_processor(8, crop_ratio=0.5)  # of which no part may be cropped away


def test_maps_that_tell_the_class_of_photographs_of_any_shape(small):
    sources = a_source(40, 0, size=(12, 20)), a_source(20, 1, size=(32, 8))
    results = measured(Pixels(), small, *sources, crop_size=8)
    assert list(results) == [
        f"eval_segmentation_dinov2_{name}" for name in ("miou", "miou_ci95", "accuracy", "accuracy_ci95")
    ]
    assert results["eval_segmentation_dinov2_miou"] > 0.97
    assert sources[1].num_read == 20


def test_maps_that_tell_nothing(small):
    sources = a_source(40, 0, coloured=False), a_source(40, 1, coloured=False)
    results = measured(Pixels(), small, *sources, crop_size=8)
    assert results["eval_segmentation_dinov2_accuracy"] == pytest.approx(1 / 3, abs=0.08)


def test_windows_of_a_vit_equal_a_naive_computation(vit, processor):
    """Each pixel: the mean over all windows in which it lies of logits from one forward pass of that window alone."""
    torch.manual_seed(1)
    head = nn.Sequential(nn.BatchNorm2d(12), nn.Conv2d(12, 3, 1)).eval()
    photograph = np.random.default_rng(0).integers(0, 256, (40, 72, 3), dtype=np.uint8)
    rows = {"image": [Image.fromarray(photograph)], "mask": [Image.fromarray(photograph[..., 0] % 3)]}
    features = datasets.Features({"image": datasets.Image(), "mask": datasets.Image()})
    source = replace(a_source(1, 0), dataset=datasets.Dataset.from_dict(rows, features=features))
    source.dataset = source.dataset.cast_column("image", datasets.Image(decode=False))
    crops = SegmentationCrops(FeatureExtractor(vit, processor), source, (0, 1, 2), side=24)
    ((windows, (height, width), _),) = crops.windows()
    corners = window_corners(height, width, 24, crops.stride)
    found = average_windows(module.window_logits(crops.extractor, head, windows), corners, height, width)

    resized = np.asarray(Image.fromarray(photograph).resize((43, 24), Image.Resampling.BICUBIC))
    total, number = np.zeros((3, 24, 43)), np.zeros((24, 43))
    for left in (0, 16, 19):  # 43 - 24 = 19, and two thirds of 24 are 16
        pixels = torch.from_numpy(resized[:, left : left + 24].copy()).permute(2, 0, 1)[None] / 255
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (processor.image_mean, processor.image_std))
        with torch.no_grad():
            tokens = vit((pixels - mean) / std, interpolate_pos_encoding=True).last_hidden_state
            logits = head(tokens[:, 1:].transpose(1, 2).reshape(1, 12, 3, 3))
        at_pixels = F.interpolate(logits, size=(24, 24), mode="bilinear", align_corners=False)[0].numpy()
        for row in range(24):
            for column in range(24):
                total[:, row, left + column] += at_pixels[:, row, column]
                number[row, left + column] += 1
    assert found.numpy() == pytest.approx(total / number, abs=1e-4)


@pytest.mark.parametrize("crop_size, expected", [(20, 16), (21, 24), (24, 24), (3, 8)])
def test_crops_are_whole_patches(vit, processor, caplog, crop_size, expected):
    caplog.set_level("INFO", "lejepa_hf")
    seen = []
    hook = vit.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    try:
        measured(vit, processor, a_source(16, 0), a_source(2, 1), crop_size=crop_size, num_epochs=1)
    finally:
        hook.remove()
    assert {shape[-2:] for shape in seen} == {(expected, expected)}
    said = f"`crop_size` {crop_size} becomes {expected}, the nearest multiple of the encoder's patches"
    assert (said in caplog.text) == (crop_size != expected)


def test_a_size_that_cannot_be_used(vit, processor):
    with pytest.raises(ValueError, match="`crop_size` must be more than 0, got 0"):
        module.SegmentationDinov2(crop_size=0)

    class Cropping:
        def __call__(self, images, return_tensors, do_convert_rgb=None):
            return {"pixel_values": torch.zeros(len(images), 3, 8, 8)}

    with pytest.raises(ValueError, match="`segmentation-dinov2`: the Cropping of .* always resizes or crops"):
        measured(vit, Cropping(), a_source(2, 0), a_source(2, 1), crop_size=16)


def test_is_deterministic_and_leaves_everything_alone(small):
    encoder, sources = Pixels(), (a_source(20, 0, coloured=False), a_source(10, 1, coloured=False))
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = measured(encoder, small, *sources, crop_size=8, num_epochs=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)
    assert measured(encoder, small, *sources, crop_size=8, num_epochs=1) == first
    assert encoder.one.item() == 1 and encoder.one.grad is None


def test_values_to_ignore_are_no_classes(small):
    sources = [a_source(20, seed, values=(0, 50, 255)) for seed in (0, 1)]
    results = measured(Pixels(), small, *sources, crop_size=8, num_epochs=1, ignore_labels=(0, 255))
    assert results["eval_segmentation_dinov2_miou"] == 1  # one class is left


def test_broken_images_are_left_out(small, caplog):
    train, test = a_source(20, 0), a_source(10, 1)
    rows = test.dataset.to_list()
    rows[3]["image"]["bytes"], rows[5]["mask"]["bytes"] = b"no image", b"no mask"
    torn = replace(test, dataset=datasets.Dataset.from_list(rows, features=test.dataset.features))
    measured(Pixels(), small, train, torn, crop_size=8, num_epochs=1)
    assert torn.num_read == 8 and "an image or its mask is broken and left out" in caplog.text
    rows = [row | {"image": {"bytes": b"no image", "path": None}} for row in rows[:2]]
    torn = replace(test, dataset=datasets.Dataset.from_list(rows, features=test.dataset.features))
    for sources in ((torn, test), (train, torn)):
        with pytest.raises(DataError, match="none of its images and masks can be read"):
            measured(Pixels(), small, *sources, crop_size=8, num_epochs=1)
