"""Logistic regression on frozen embeddings, for sets that fit into memory."""

import numpy as np

from ..embeddings.extraction import LabelledEmbeddings
from ..intervals import with_interval


def fit_logistic(embeddings: np.ndarray, labels: np.ndarray):
    """
    scikit-learn's, on standardised embeddings, with its default penalty (L2, C = 1).

    Args:
        embeddings (`np.ndarray` of shape `(num_images, dim)`): The images to fit.
        labels (`np.ndarray` of shape `(num_images,)`): Their classes, at least two.

    Returns:
        `sklearn.pipeline.Pipeline`
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(embeddings, labels)


def logistic_regression(train: LabelledEmbeddings, test: LabelledEmbeddings) -> dict[str, float]:
    """
    Fit all training images, see [`fit_logistic`].

    Args:
        train ([`LabelledEmbeddings`]): Fits.
        test ([`LabelledEmbeddings`]): Measures.

    Returns:
        `dict[str, float]`: `eval_logistic_top1` in [0, 1], and its interval, see [`with_interval`].
    """
    from ..metrics.top_k_accuracy import TopKAccuracy

    guesses = fit_logistic(train.embeddings.numpy(), train.labels.numpy()).predict(test.embeddings.numpy())
    top = TopKAccuracy().compute(predictions=guesses[:, None].tolist(), references=test.labels.tolist())
    return with_interval("eval_logistic_top1", top["top1"], len(test.labels))
