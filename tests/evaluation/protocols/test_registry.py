from dataclasses import replace

import pytest
from digit_scenes import digit_scenes

from lejepa_hf.data.sources import load_source
from lejepa_hf.evaluation.protocols.registry import ON_EMBEDDINGS, ON_IMAGES, check_protocols, check_source


def test_all_are_known():
    check_protocols([*ON_EMBEDDINGS, *ON_IMAGES])
    with pytest.raises(ValueError, match="svm unknown; known are linear, .*retrieval, fine-tune, segmentation"):
        check_protocols(["knn", "svm"])


def test_what_needs_images_is_for_later():
    check_protocols([*ON_EMBEDDINGS], at_the_end_of_training=True)
    with pytest.raises(ValueError, match="`eval_protocols` fine-tune, segmentation: only `lejepa evaluate`, after"):
        check_protocols(["knn", "fine-tune", "segmentation"], at_the_end_of_training=True)


def test_masks_and_classes_are_not_taken_for_each_other():
    digits = load_source("digits", "test")
    scenes = load_source(digit_scenes("test", 10), image_column="image", label_column="mask")
    check_source(["knn", "fine-tune"], digits)
    check_source(["segmentation"], scenes)
    with pytest.raises(
        ValueError, match="'digits' has no masks in `label_column` 'label' but ClassLabel; segmentation"
    ):
        check_source(["segmentation"], digits)
    with pytest.raises(ValueError, match="'digits' has no labels; segmentation needs masks: .* one of label"):
        check_source(["segmentation"], replace(digits, label_column=None))
    for protocol in ("knn", "fine-tune"):
        with pytest.raises(ValueError, match="'mask' of `dataset` '.*' holds masks: only .* `segmentation`"):
            check_source([protocol], scenes)


def test_streams_are_for_embeddings():
    stream = load_source("digits", "test", streaming=True)
    check_source(["knn"], stream)
    with pytest.raises(
        ValueError, match="`protocols` fine-tune: `dataset` 'digits' is a stream.*leave `streaming` out"
    ):
        check_source(["knn", "fine-tune"], stream)
