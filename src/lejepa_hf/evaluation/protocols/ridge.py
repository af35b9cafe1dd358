"""Ridge regression of numbers on frozen embeddings, for sets that fit into memory."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..embeddings.extraction import LabelledEmbeddings
from ..intervals import over_images, over_resamples
from .protocol import OnEmbeddings

PENALTIES = tuple(float(penalty) for penalty in np.logspace(-3, 6, 19))


def fit_ridge(embeddings: np.ndarray, numbers: np.ndarray) -> Any:  # noqa: ANN401, of scikit-learn
    """
    Fit ridge regression on standardised embeddings `(num_images, dim)`, with the penalty of 19 from 1e-3 to 1e6 whose
    leave-one-out error on these images is the smallest, by scikit-learn's RidgeCV.
    """
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), RidgeCV(alphas=PENALTIES)).fit(embeddings, numbers)


@dataclass(frozen=True)
class Ridge(OnEmbeddings):
    """Ridge regression of a number for each image, see [`fit_ridge`]."""

    name = "ridge"
    kinds = ("number",)

    def run(self, train: LabelledEmbeddings, test: LabelledEmbeddings) -> dict[str, float]:
        """
        `eval_ridge_r2`, the share of the variance of test images that is explained, at most 1, and below 0 if their
        mean is the better guess; `eval_ridge_mae`, the mean absolute error in the unit of the labels. Both have
        intervals over test images, R2 by the bootstrap.
        """
        model = fit_ridge(train.embeddings.double().numpy(), train.labels.numpy())
        numbers, guesses = test.labels.numpy(), model.predict(test.embeddings.double().numpy())
        explained = over_resamples("eval_ridge_r2", r2_of(numbers, guesses), len(numbers))
        return explained | over_images("eval_ridge_mae", np.abs(numbers - guesses).tolist())


def r2_of(numbers: np.ndarray, guesses: np.ndarray) -> Callable[[np.ndarray], float]:
    """A function from image numbers to R2; 0 for images that all have the same number."""

    def figure(images: np.ndarray) -> float:
        true, guessed = numbers[images], guesses[images]
        spread = float(((true - true.mean()) ** 2).sum())
        return 1 - float(((true - guessed) ** 2).sum()) / spread if spread else 0.0

    return figure
