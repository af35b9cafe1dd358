import logging
from math import nan

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from lejepa_hf.evaluation.embeddings.extraction import LabelledEmbeddings
from lejepa_hf.evaluation.multi_label import _Ranked, multi_label_figures, with_classes_of


def drawn(num_images: int, num_classes: int, decimals: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Labels and scores, with many equal scores."""
    rng = np.random.default_rng(0)
    is_class = rng.random((num_images, num_classes)) < np.linspace(0.2, 0.7, num_classes)
    return is_class, (is_class + rng.normal(size=is_class.shape)).round(decimals)


def test_figures_equal_those_of_scikit_learn():
    is_class, scores = drawn(80, 5)
    found = multi_label_figures("eval_linear", is_class, scores)
    assert found["eval_linear_map"] == pytest.approx(average_precision_score(is_class, scores, average="macro"))
    assert found["eval_linear_auroc"] == pytest.approx(roc_auc_score(is_class, scores, average="macro"))
    assert 0.01 < found["eval_linear_map_ci95"] < 0.1 and 0.01 < found["eval_linear_auroc_ci95"] < 0.1
    assert found == multi_label_figures("eval_linear", is_class, scores)


def test_bootstrap_samples_equal_those_of_scikit_learn():
    is_class, scores = drawn(60, 3, decimals=0)
    ranked = _Ranked(is_class.astype(float), scores)
    for images in np.random.default_rng(1).integers(0, 60, (5, 60)):
        expected = average_precision_score(is_class[images], scores[images], average="macro")
        assert ranked.average_precision(images) == pytest.approx(expected)
        assert ranked.auroc(images) == pytest.approx(roc_auc_score(is_class[images], scores[images], average="macro"))


def test_classes_without_a_positive_or_negative_image_are_named(caplog):
    is_class, scores = drawn(40, 4)
    is_class[:, 1], is_class[:, 3] = False, True
    with caplog.at_level(logging.INFO, "lejepa_hf"):
        found = multi_label_figures("eval_linear", is_class, scores, ["edema", "mass", "cyst", "node"])
    assert "eval_linear: 2 of 4 classes (mass, node) have no positive or no negative test image" in caplog.text
    kept = [0, 2]
    assert found["eval_linear_map"] == pytest.approx(average_precision_score(is_class[:, kept], scores[:, kept]))
    with pytest.raises(ValueError, match="2 of 2 classes .*name another split"):
        multi_label_figures("eval_linear", is_class[:, [1, 3]], scores[:, :2])


def test_scores_that_are_not_numbers_are_refused():
    is_class, scores = drawn(10, 2)
    scores[3, 1] = nan
    with pytest.raises(ValueError, match="some scores are NaN or infinite"):
        multi_label_figures("eval_linear", is_class, scores)


def test_training_images_have_none_of_the_classes_that_only_test_images_have():
    train = LabelledEmbeddings(torch.zeros(2, 3), torch.ones(2, 2, dtype=torch.uint8))
    test = LabelledEmbeddings(torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.uint8))
    assert with_classes_of(train, test).labels.tolist() == [[1, 1, 0]] * 2
    assert with_classes_of(train, train) is train
