import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.preprocessing import StandardScaler

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


def test_multi_label_equals_a_fit_for_each_class():
    pixels, digits = load_digits(return_X_y=True)
    pixels, digits = pixels[:500], digits[:500]
    marks = np.stack([digits > 6, digits % 2 == 1, digits < 0, digits >= 0], 1)
    train, test = (
        LabelledEmbeddings(torch.from_numpy(pixels[part]).float(), torch.from_numpy(marks[part].astype(np.uint8)))
        for part in (slice(0, 300), slice(300, None))
    )
    results = Logistic().run(train, test)
    scaler = StandardScaler().fit(pixels[:300])
    scores = [
        LogisticRegression(max_iter=1000)
        .fit(scaler.transform(pixels[:300]), column[:300])
        .decision_function(scaler.transform(pixels[300:]))
        for column in marks.T[:2]
    ]
    expected = average_precision_score(marks[300:, :2], np.stack(scores, 1))
    assert results["eval_logistic_map"] == pytest.approx(expected, abs=1e-3)
    assert results["eval_logistic_auroc"] > 0.9
