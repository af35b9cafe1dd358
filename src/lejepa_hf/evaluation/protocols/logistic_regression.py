"""Logistic regression on frozen embeddings, for sets that fit into memory."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..classification import ClassPredictions
from ..embeddings.extraction import LabelledEmbeddings
from ..multi_label import multi_label_figures, with_classes_of
from .protocol import OfClasses, OnEmbeddings


def fit_logistic(embeddings: np.ndarray, labels: np.ndarray) -> Any:  # noqa: ANN401
    """
    Fit scikit-learn's logistic regression on standardised embeddings (images, dim) of at least two classes, with its
    default penalty (L2, C = 1).
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(embeddings, labels)


def predict_logistic(
    classifier: Any,  # noqa: ANN401
    test: LabelledEmbeddings,
    protocol: OfClasses,
) -> ClassPredictions:
    """What a classifier of [`fit_logistic`] says of test images, for the metrics of a protocol."""
    predictions = protocol.predictions(test.labels, usual=("top1",))
    probabilities = torch.from_numpy(classifier.predict_proba(test.embeddings.numpy()))
    predictions.add(probabilities, torch.from_numpy(classifier.classes_))
    return predictions


def _scores(train: np.ndarray, is_class: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Log-odds `(num_test_images,)` that test images are of a class."""
    if is_class.all() or not is_class.any():
        return np.zeros(len(test))
    return fit_logistic(train, is_class).decision_function(test)


@dataclass(frozen=True)
class Logistic(OfClasses, OnEmbeddings):
    """
    Logistic regression on all training images, see [`fit_logistic`]; for multi-label one for each class, and equal
    scores for a class that all training images have, or none.
    """

    name = "logistic"
    kinds = ("class", "multi-label")

    def run(self, train: LabelledEmbeddings, test: LabelledEmbeddings) -> dict[str, float]:
        """`eval_logistic_top1`, and so on for other metrics; for multi-label those of [`multi_label_figures`]."""
        if train.labels.ndim > 1:
            columns = with_classes_of(train, test).labels.numpy().T
            scores = [_scores(train.embeddings.numpy(), column, test.embeddings.numpy()) for column in columns]
            is_class = test.labels.numpy() > 0
            return multi_label_figures("eval_logistic", is_class, np.stack(scores, 1), test.class_names)
        classifier = fit_logistic(train.embeddings.numpy(), train.labels.numpy())
        return predict_logistic(classifier, test, self).figures("eval_logistic")
