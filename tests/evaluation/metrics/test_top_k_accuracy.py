import sys

import numpy as np
import pytest
from sklearn.metrics import top_k_accuracy_score

from lejepa_hf.evaluation.metrics.top_k_accuracy import TopKAccuracy


def guesses(num_classes: int, depth: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=(200, num_classes)), rng.integers(num_classes, size=200)
    return scores, (-scores).argsort(1)[:, :depth], labels


@pytest.mark.parametrize(("num_classes", "depth", "expected"), [(12, 5, (1, 5)), (12, 12, (1, 5)), (3, 3, (1,))])
def test_equals_scikit_learn(num_classes, depth, expected):
    scores, best, labels = guesses(num_classes, depth)
    results = TopKAccuracy().compute(predictions=best.tolist(), references=labels.tolist())
    reference = {f"top{k}": top_k_accuracy_score(labels, scores, k=k, labels=range(num_classes)) for k in expected}
    assert results == pytest.approx(reference)


def test_batches_add_up():
    _, best, labels = guesses(12, 5)
    metric = TopKAccuracy()
    for rows in (slice(0, 60), slice(60, 200)):
        metric.add_batch(predictions=best[rows].tolist(), references=labels[rows].tolist())
    assert metric.compute() == TopKAccuracy().compute(predictions=best.tolist(), references=labels.tolist())


def test_opens_no_connection():
    attempts, watching = [], True

    def watch(event, arguments):
        if watching and event in ("socket.connect", "socket.getaddrinfo"):
            attempts.append(arguments)

    sys.addaudithook(watch)  # stays for the life of the process, hence the switch
    assert TopKAccuracy().compute(predictions=[[1, 0], [0, 1]], references=[1, 1]) == {"top1": 0.5}
    watching = False
    assert not attempts
