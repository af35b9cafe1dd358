import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from sklearn.metrics.pairwise import cosine_similarity
from test_knn import overlapping_classes

from lejepa_hf.evaluation.protocols import retrieval as module
from lejepa_hf.evaluation.protocols.retrieval import Retrieval

retrieval = Retrieval().run


def by_hand(train, test) -> dict[str, float]:
    cosines = cosine_similarity(test.embeddings, train.embeddings)
    relevant = test.labels.numpy()[:, None] == train.labels.numpy()
    precision = np.mean([average_precision_score(*pair) for pair in zip(relevant, cosines, strict=True)])
    ranked = np.take_along_axis(relevant, (-cosines).argsort(1), axis=1)
    return {"eval_retrieval_map": precision} | {
        f"eval_retrieval_recall{k}": ranked[:, :k].any(1).mean() for k in (1, 5, 10)
    }


@pytest.mark.parametrize("block", [2**24, 1000])
def test_equals_scikit_learn(monkeypatch, block):
    monkeypatch.setattr(module, "_BLOCK", block)  # few queries at a time, too
    monkeypatch.setattr(module, "_BANK", 64)
    train, test = overlapping_classes(200, 0), overlapping_classes(150, 1)
    results = retrieval(train, test)
    figures = {name: value for name, value in results.items() if not name.endswith("_ci95")}
    assert figures == pytest.approx(by_hand(train, test), abs=1e-6)
    assert results["eval_retrieval_recall1_ci95"] > 0 and 0 < results["eval_retrieval_map_ci95"] < 0.1
    assert 0.3 < results["eval_retrieval_map"] < results["eval_retrieval_recall10"]


def test_queries_without_any_relevant_image_do_not_count():
    train, test = overlapping_classes(200, 0), overlapping_classes(150, 1)
    with_strangers = overlapping_classes(150, 1)
    with_strangers.embeddings = torch.cat([test.embeddings, torch.randn(30, 8)])
    with_strangers.labels = torch.cat([test.labels, torch.full((30,), 9)])
    assert retrieval(train, with_strangers) == retrieval(train, test)
    test.labels[:] = 9
    with pytest.raises(ValueError, match="nothing to retrieve"):
        retrieval(train, test)
