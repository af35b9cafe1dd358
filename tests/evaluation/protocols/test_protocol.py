from dataclasses import replace

import pytest
from digit_scenes import digit_scenes

from lejepa_hf.data.sources import load_source
from lejepa_hf.evaluation.protocols.protocol import require_positive
from lejepa_hf.evaluation.protocols.registry import protocol_class


def check(name: str, source) -> None:
    protocol_class(name)().check(source, source)


def test_masks_and_classes_are_not_taken_for_each_other():
    digits = load_source("digits", "test")
    scenes = load_source(digit_scenes("test", 4), image_column="image", label_column="mask")
    scenes = replace(scenes, name="digit-scenes")
    check("knn", digits)
    check("fine-tune", digits)
    check("segmentation", scenes)
    with pytest.raises(
        ValueError, match="'digits' has no masks in `label_column` 'label' but ClassLabel; segmentation"
    ):
        check("segmentation", digits)
    with pytest.raises(ValueError, match="'digits' has no labels; segmentation needs masks: .* one of label"):
        check("segmentation", replace(digits, label_column=None))
    for name in ("knn", "fine-tune"):
        with pytest.raises(ValueError, match="'mask' of `dataset` 'digit-scenes' holds masks: only .* `segmentation`"):
            check(name, scenes)


def test_streams_are_for_embeddings():
    stream = load_source("digits", "test", streaming=True)
    check("knn", stream)
    with pytest.raises(
        ValueError, match="`protocols` fine-tune: `dataset` 'digits' is a stream.*leave `streaming` out"
    ):
        check("fine-tune", stream)


def test_settings_that_may_be_left_out():
    require_positive("resolution", None)
    require_positive("resolution", 1)
    with pytest.raises(ValueError, match="`resolution` must be more than 0, got -1"):
        require_positive("resolution", -1)
