import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, jaccard_score

from lejepa_hf.evaluation.protocols.pixel_counts import IGNORED, PixelCounts, check_scores


def drawn(number: int = 12, seed: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Predictions that are right for half of the pixels, and masks of different sizes with pixels to ignore."""
    rng, images = np.random.default_rng(seed), []
    for _ in range(number):
        mask = rng.integers(IGNORED, 4, rng.integers(3, 9, 2))
        predicted = np.where(rng.random(mask.shape) < 0.5, mask.clip(0), rng.integers(0, 4, mask.shape))
        images.append((torch.from_numpy(predicted), torch.from_numpy(mask)))
    return images


def test_equals_scikit_learn_over_all_pixels():
    counts = PixelCounts(4)
    for predicted, mask in drawn():
        counts.add(predicted, mask)
    predicted, mask = (torch.cat([pair[part].flatten() for pair in drawn()]).numpy() for part in (0, 1))
    predicted, mask = predicted[mask != IGNORED], mask[mask != IGNORED]
    found = counts.figures("x")
    assert list(found) == ["x_miou", "x_miou_ci95", "x_accuracy", "x_accuracy_ci95"] and len(counts) == 12
    assert found["x_miou"] == counts.miou() == pytest.approx(jaccard_score(mask, predicted, average="macro"))
    assert found["x_accuracy"] == pytest.approx(accuracy_score(mask, predicted))
    assert 0 < found["x_miou_ci95"] < 0.3


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scores_that_are_not_numbers_are_refused(value):
    scores = torch.zeros(3, 4, 4)
    assert check_scores(scores) is scores
    scores[1, 2, 3] = value
    with pytest.raises(ValueError, match="gives an image NaN or infinite scores"):
        check_scores(scores)
