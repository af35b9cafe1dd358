import numpy as np
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, jaccard_score

from lejepa_hf.evaluation.metrics.mean_iou import MeanIoU, count_pixels

NUM_CLASSES = 6


def images(ignored: float = 0.2, classes=range(NUM_CLASSES)):
    """Predictions and masks of several sizes, a part of which says nothing."""
    rng = np.random.default_rng(0)
    for height, width in ((5, 7), (16, 3), (9, 9)):
        mask = rng.choice(list(classes), (height, width))
        predicted = np.where(rng.random(mask.shape) < 0.6, mask, rng.choice(list(classes), mask.shape))
        mask[rng.random(mask.shape) < ignored] = 255
        yield predicted, mask


def both(pairs):
    """Ours, and all pixels that say something for scikit-learn."""
    pairs = list(pairs)
    counts = [count_pixels(predicted, mask, NUM_CLASSES) for predicted, mask in pairs]
    metric = MeanIoU()
    for prediction, reference in counts:
        metric.add_batch(predictions=[prediction], references=[reference])
    kept = [(mask[mask != 255], predicted[mask != 255]) for predicted, mask in pairs]
    return metric.compute(), *(np.concatenate(part) for part in zip(*kept, strict=True))


def test_is_scikit_learns():
    found, mask, predicted = both(images())
    assert found["miou"] == pytest.approx(jaccard_score(mask, predicted, average="macro"), abs=1e-12)
    assert found["accuracy"] == accuracy_score(mask, predicted)
    confusion = confusion_matrix(mask, predicted)
    union = confusion.sum(0) + confusion.sum(1) - confusion.diagonal()
    assert found["miou"] == pytest.approx((confusion.diagonal() / union).mean(), abs=1e-12)


def test_classes_that_are_nowhere_do_not_count():
    found, mask, predicted = both(images(classes=(0, 2, 5)))
    assert found["miou"] == pytest.approx(jaccard_score(mask, predicted, average="macro"), abs=1e-12)
    assert len(np.unique(mask)) == 3


def test_ignored_pixels_may_be_predicted_as_anything():
    mask = np.array([[0, 255, 1]])
    assert count_pixels(np.array([[0, 1, 1]]), mask, 2) == count_pixels(np.array([[0, 0, 1]]), mask, 2)
    assert count_pixels(np.array([[0, 1, 1]]), mask, 2) == ([[1, 1], [1, 1]], [1, 1])
