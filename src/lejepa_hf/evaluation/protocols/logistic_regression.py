"""Logistic regression on frozen embeddings, for sets that fit into memory."""

from typing import Any

import numpy as np

from ..embeddings.extraction import LabelledEmbeddings
from ..intervals import top_accuracies
from .protocol import OnEmbeddings


def fit_logistic(embeddings: np.ndarray, labels: np.ndarray) -> Any:  # noqa: ANN401
    """
    Fit scikit-learn's logistic regression on standardised embeddings (images, dim) of at least two classes, with its
    default penalty (L2, C = 1).
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(embeddings, labels)


class Logistic(OnEmbeddings):
    """Logistic regression on all training images, see [`fit_logistic`]."""

    name = "logistic"

    def run(self, train: LabelledEmbeddings, test: LabelledEmbeddings) -> dict[str, float]:
        """`eval_logistic_top1` and its interval."""
        guesses = fit_logistic(train.embeddings.numpy(), train.labels.numpy()).predict(test.embeddings.numpy())
        return top_accuracies("eval_logistic", guesses[:, None].tolist(), test.labels.tolist())
