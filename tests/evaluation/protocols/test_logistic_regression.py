import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from lejepa_hf.evaluation.embeddings.extraction import LabelledEmbeddings
from lejepa_hf.evaluation.protocols.logistic_regression import Logistic


@pytest.mark.slow
def test_equals_an_independent_fit_to_a_fifth_of_a_point():
    pixels, labels = load_digits(return_X_y=True)
    mean, std = pixels[:1000].mean(0), pixels[:1000].std(0)
    std[std == 0] = 1
    scaled = (pixels - mean) / std
    expected = LogisticRegression(max_iter=5000).fit(scaled[:1000], labels[:1000]).score(scaled[1000:], labels[1000:])
    pixels, labels = torch.from_numpy(pixels).float(), torch.from_numpy(labels)
    halves = (LabelledEmbeddings(pixels[part], labels[part]) for part in (slice(0, 1000), slice(1000, None)))
    results = Logistic().run(*halves)
    assert list(results) == ["eval_logistic_top1", "eval_logistic_top1_ci95"]
    assert results["eval_logistic_top1"] == pytest.approx(expected, abs=2e-3)
    assert 0.8 < expected < 0.99
