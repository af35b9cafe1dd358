from dataclasses import replace

import numpy as np
import pytest
import torch
from digit_scenes import digit_scenes

from lejepa_hf.data.sources import load_source
from lejepa_hf.evaluation.embeddings.extraction import LabelledEmbeddings
from lejepa_hf.evaluation.protocols.protocol import passes_and_steps, require_positive
from lejepa_hf.evaluation.protocols.registry import protocol_class


def check(name: str, source) -> None:
    protocol_class(name)().check(source, source)


def test_masks_and_classes_are_not_taken_for_each_other():
    digits = load_source("digits", "test")
    scenes = load_source(digit_scenes("test", 10), image_column="image", label_column="mask")
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
        with pytest.raises(ValueError, match="'mask' of `dataset` '.*' holds masks: only .* `segmentation`"):
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


def test_passes_and_the_steps_that_they_are():
    assert passes_and_steps(20, 16, None, 10, 600) == (480, 600)
    assert passes_and_steps(1000, 16, None, 10, 600) == (10, 625)
    assert passes_and_steps(1001, 16, 2, 10, 600) == (2, 126)


@pytest.mark.parametrize("name", ["linear", "knn", "logistic", "few-shot"])
def test_only_classes_of_the_held_out_images_are_guessed(name):
    """Embeddings that say nothing: one of ten classes is right by chance, or one of two."""
    rng = np.random.default_rng(0)
    train, test = (
        LabelledEmbeddings(torch.from_numpy(rng.normal(size=(400, 4))).float(), torch.arange(400) % number)
        for number in (10, 2)
    )
    settings = {"shots": [10]} if name == "few-shot" else {}
    fewer = {"learning_rates": [1e-2], "num_steps": 20} if name == "linear" else {}
    free, only = (
        protocol_class(name)(metrics=["top1"], held_out_classes_only=flag, **settings).run(train, test, **fewer)
        for flag in (False, True)
    )
    top1 = next(key for key in free if key.endswith("top1"))
    assert free[top1] < 0.2 and 0.4 < only[top1] < 0.6
