from dataclasses import replace

import datasets
import numpy as np
import pytest
import torch
from coloured_squares import Pixels, a_source, segmentation
from transformers import AutoConfig, AutoModel

from lejepa_hf.data.errors import DataError
from lejepa_hf.evaluation.feature_extractor import FeatureExtractor
from lejepa_hf.evaluation.protocols import segmentation_maps
from lejepa_hf.evaluation.protocols.segmentation_maps import IGNORED, SegmentationMaps, find_classes
from lejepa_hf.hub.export import build_processor


@pytest.fixture
def processor():
    return build_processor(8, crop_ratio=0.5)  # of which no part may be cropped away


def test_computed_anew_is_like_kept(processor, monkeypatch, caplog):
    caplog.set_level("INFO", "lejepa_hf")
    parts = a_source(40, 0, coloured=False), a_source(20, 1, coloured=False)
    settings = {"learning_rates": (1e-3, 1e-1), "num_epochs": 2}
    kept = segmentation(Pixels(), processor, *parts, **settings)
    monkeypatch.setattr(segmentation_maps, "_KEPT", 0)
    anew = segmentation(Pixels(), processor, *parts, **settings)
    assert "computed again for each pass" in caplog.text
    assert anew == pytest.approx(kept, abs=0.01)
    assert "best of 2 on 4 training images" in caplog.text


def test_broken_rows_are_left_out(processor, caplog):
    train, test = a_source(40, 0), a_source(20, 1)
    rows = train.dataset.to_list()
    rows[3]["image"]["bytes"], rows[5]["mask"]["bytes"] = b"no image", b"no mask"
    torn = datasets.Dataset.from_list(rows, features=train.dataset.features)
    results = segmentation(Pixels(), processor, replace(train, dataset=torn), test)
    assert results["eval_segmentation_miou"] > 0.99
    assert "row 3 is broken and left out" in caplog.text


def test_a_size_that_the_encoder_does_not_take(tiny_vit, processor):
    encoder = AutoModel.from_config(AutoConfig.for_model(**tiny_vit), add_pooling_layer=False)
    with pytest.raises(ValueError, match="`resolution` 2: this vit encoder cannot make a feature map"):
        segmentation(encoder, processor, a_source(2, 0), a_source(2, 1), resolution=2)


def test_a_processor_that_crops_always(processor):
    class Cropping:
        def __call__(self, images, return_tensors, do_convert_rgb=None):
            return {"pixel_values": torch.zeros(len(images), 3, 8, 8)}

    with pytest.raises(ValueError, match="the Cropping of this encoder always resizes or crops"):
        segmentation(Pixels(), Cropping(), a_source(2, 0), a_source(2, 1))


def maps_of_squares(processor, source, classes=(0, 50)) -> SegmentationMaps:
    return SegmentationMaps(FeatureExtractor(Pixels(), processor), source, classes, side=8, scale=1.0)


@pytest.mark.parametrize("largest", [2**30, 0])
def test_batches_have_the_order_of_the_rows_and_numbers_of_classes(processor, monkeypatch, largest):
    monkeypatch.setattr(segmentation_maps, "_KEPT", largest)
    source = a_source(6, 0, values=(0, 50, 255))
    batches = list(maps_of_squares(processor, source).batches(np.array([4, 1, 3]), 2))
    assert [len(masks) for _, masks in batches] == [2, 1]
    pixels, masks = (torch.cat(part) for part in zip(*batches, strict=True))
    shown = [np.asarray(image) for image in source.dataset.cast_column("image", datasets.Image())[[4, 1, 3]]["image"]]
    expected = torch.from_numpy(np.stack(shown).argmax(-1))  # red, green and blue are 0, 50 and 255
    assert masks.tolist() == expected.where(expected != 2, IGNORED).tolist()
    assert torch.equal(pixels.argmax(1), expected)


def test_only_long_sides_of_whole_masks_are_reduced(processor):
    ((_, masks),) = maps_of_squares(processor, a_source(2, 0, size=(1024, 6))).with_whole_masks()
    assert [mask.shape for mask in masks] == [(512, 6)] * 2


@pytest.mark.parametrize("number", [3, 70])
def test_nothing_readable_is_an_error(processor, number):
    source = a_source(number, 0)
    rows = [row | {"image": {"bytes": b"no image", "path": None}} for row in source.dataset.to_list()]
    torn = replace(source, dataset=datasets.Dataset.from_list(rows, features=source.dataset.features))
    with pytest.raises(DataError, match="none of its images and masks can be read"):
        list(maps_of_squares(processor, torn).batches(np.arange(number), 2))


def test_values_of_masks_are_classes_unless_they_are_ignored():
    source = a_source(20, 0, values=(0, 50, 255))
    assert find_classes(source, ()) == {0, 50, 255}
    assert find_classes(source, (255, 7)) == {0, 50}
    rows = [row | {"mask": {"bytes": b"no mask", "path": None}} for row in source.dataset.to_list()]
    torn = replace(source, dataset=datasets.Dataset.from_list(rows, features=source.dataset.features))
    with pytest.raises(ValueError, match="`label_column` 'mask' of .* holds no usable mask: the first one: "):
        find_classes(torn, ())
