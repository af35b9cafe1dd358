"""Classification from a few labelled images a class."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...data.sources import ImageSource
from ..embeddings.extraction import LabelledEmbeddings
from ..intervals import over_draws, with_interval
from ..labelled_sources import labels_of
from .logistic_regression import fit_logistic
from .protocol import OnEmbeddings

logger = logging.getLogger("lejepa_hf")

ALL = "all"
SHOTS: tuple[int | str, ...] = (1, 2, 5, 10, 100, ALL)
_MOST_NUMBERS = 50_000_000  # images x dimensions to be fitted at once unless `shots` has "all"
_DRAWS, _DRAWS_OF_MANY, _FEW = 20, 5, 10  # with more than a few shots, draws differ little and each takes long


@dataclass(frozen=True)
class FewShot(OnEmbeddings):
    """
    Logistic regression on standardised embeddings of a few random images of each class, over 20 draws, or 5 with more
    than 10 shots. The draws are the same images for every encoder.

    Args:
        shots (`Sequence[int | str]`, *optional*): Numbers of images in a class, or `"all"` of them. If missing, 1, 2,
            5, 10, 100 and all, without those that a class is too small for, and without `"all"` where the embeddings
            are more than 50 million numbers, as 100,000 images of 500 dimensions are.

    Source: shots and sets are those of arXiv 2511.08544, Tables 2 and 3; how it fits them is not published, and the
    fit here is ours.
    """

    name = "few-shot"
    shots: Sequence[int | str] | None = None

    def check(self, train: ImageSource, test: ImageSource) -> None:
        """Also refuse more shots than a class has training images; those of a stream are not known yet."""
        super().check(train, test)
        labels = labels_of(train)
        if self.shots is not None and labels is not None:
            _check_shots(self.shots, labels)

    def run(self, train: LabelledEmbeddings, test: LabelledEmbeddings) -> dict[str, float]:
        """
        For each k `eval_<k>shot_top1`, the mean over draws, with its interval and standard deviation, see
        [`over_draws`]; where all images of all classes are taken, the interval is that of [`with_interval`].
        """
        embeddings, labels = train.embeddings.numpy(), train.labels.numpy()
        held_out, expected = test.embeddings.numpy(), test.labels.numpy()
        shots = _fitting_shots(embeddings, labels) if self.shots is None else self.shots
        _check_shots(shots, labels)
        members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
        results: dict[str, float] = {}
        for k in shots:
            if isinstance(k, str) or all(len(rows_of_class) == k for rows_of_class in members):  # there is one draw
                score = fit_logistic(embeddings, labels).score(held_out, expected)
                results |= with_interval(f"eval_{k}shot_top1", float(score), len(expected))
                continue
            accuracies = []
            for draw in range(_DRAWS if k <= _FEW else _DRAWS_OF_MANY):
                rng = np.random.default_rng([0, k, draw])
                rows = np.concatenate([rng.choice(rows_of_class, k, replace=False) for rows_of_class in members])
                accuracies.append(fit_logistic(embeddings[rows], labels[rows]).score(held_out, expected))
            results |= over_draws(f"eval_{k}shot_top1", accuracies)
        return results


def _fitting_shots(embeddings: np.ndarray, labels: np.ndarray) -> list[int | str]:
    """The shots that every class has enough images for; `all` only of embeddings that are fitted in minutes."""
    fewest = int(np.unique(labels, return_counts=True)[1].min())
    fitting = [k for k in SHOTS if isinstance(k, str) or k <= fewest]
    if len(fitting) < len(SHOTS):
        left_out = [str(k) for k in SHOTS if k not in fitting]
        logger.info(f"The smallest class has {fewest} images: {' and '.join(left_out)} shots are left out.")
    if embeddings.size > _MOST_NUMBERS:
        images, dim = embeddings.shape
        logger.info(
            f"`all` shots of {images:,} images with {dim:,} dimensions would take long and are left out: set `shots` "
            "for them."
        )
        fitting.remove(ALL)
    return fitting


def _check_shots(shots: Sequence[int | str], labels: np.ndarray) -> None:
    """Refuse shots that are neither a number from 1 on nor `"all"`, or more than a class has images among `labels`."""
    for k in shots:
        if k != ALL and (not isinstance(k, int) or k < 1):
            raise ValueError(f"`shots` {k!r} must be a number of images per class, at least 1, or {ALL!r}.")
    classes, counts = np.unique(labels, return_counts=True)
    most = max((k for k in shots if isinstance(k, int)), default=0)
    if counts.min() < most:
        short = classes[counts < most].tolist()
        raise ValueError(f"`shots` {most} needs more images than class {short} has: choose at most {counts.min()}.")
