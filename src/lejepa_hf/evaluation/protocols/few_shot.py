"""Classification from a few labelled images a class."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...data.sources import ImageSource
from ...system.progress_bars import progress_bar
from ..embeddings.extraction import LabelledEmbeddings
from ..figures import Figures
from ..intervals import over_draws
from ..labelled_sources import labels_of
from .logistic_regression import fit_logistic, predict_logistic
from .protocol import OfClasses, OnEmbeddings

logger = logging.getLogger("lejepa_hf")

ALL = "all"
SHOTS: tuple[int | str, ...] = (1, 2, 5, 10, 100, ALL)
_MOST_NUMBERS = 50_000_000  # images x dimensions to be fitted at once unless `shots` has "all"
_DRAWS, _DRAWS_OF_MANY, _FEW = 20, 5, 10  # with more than a few shots, draws differ little and each takes long


@dataclass(frozen=True)
class FewShot(OfClasses, OnEmbeddings):
    """
    Logistic regression on standardised embeddings of a few random images of each class, over 20 draws, or 5 with more
    than 10 shots. The draws are the same images for every encoder.

    Args:
        shots (`Sequence[int | str]`, *optional*): Numbers of images in a class, shares of them like `"1%"` (at least
            one image), or `"all"` of them. If missing, 1, 2, 5, 10, 100 and all, without those that a class is too
            small for, and without `"all"` where the embeddings are more than 50 million numbers, as 100,000 images of
            500 dimensions are.

    Source: shots and sets are those of arXiv 2511.08544, Tables 2 and 3; how it fits them is not published, and the
    fit here is ours.
    """

    name = "few-shot"
    shots: Sequence[int | str] | None = None

    def __post_init__(self) -> None:
        for k in self.shots or ():
            if k != ALL and _percent(k) is None and (not isinstance(k, int) or k < 1):
                raise ValueError(
                    f"`shots` {k!r} must be a number of images per class, at least 1, a share of them like '10%', or "
                    f"{ALL!r}."
                )

    def check(self, train: ImageSource, test: ImageSource) -> None:
        """Also refuse more shots than a class has training images; those of a stream are not known yet."""
        super().check(train, test)
        labels = labels_of(train)
        if self.shots is not None and labels is not None:
            _check_shots(self.shots, labels)

    def run(self, train: LabelledEmbeddings, test: LabelledEmbeddings) -> dict[str, float]:
        """
        For each k `eval_<k>shot_top1`, the mean over draws, with its interval and standard deviation, see
        [`over_draws`]; where all images of all classes are taken, the interval is over test images. The same for
        other metrics.
        """
        embeddings, labels = train.embeddings.numpy(), train.labels.numpy()
        shots = _fitting_shots(embeddings, labels) if self.shots is None else self.shots
        _check_shots(shots, labels)
        members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
        results = Figures()
        for k in progress_bar(shots, desc="few-shot", unit=" shots"):
            name, numbers = f"eval_{k}shot", [_number(k, rows_of_class) for rows_of_class in members]
            if numbers == [len(rows_of_class) for rows_of_class in members]:  # there is one draw
                classifier = fit_logistic(embeddings, labels)
                results |= predict_logistic(classifier, test, self).figures(name)
                continue
            draws = []
            for draw in range(_DRAWS if max(numbers) <= _FEW else _DRAWS_OF_MANY):
                rng = np.random.default_rng([0, *_seed(k), draw])
                drawn = zip(members, numbers, strict=True)
                rows = np.concatenate([rng.choice(of_class, number, replace=False) for of_class, number in drawn])
                classifier = fit_logistic(embeddings[rows], labels[rows])
                draws.append(predict_logistic(classifier, test, self).values())
            for metric in draws[0]:
                results |= over_draws(f"{name}_{metric}", [of_draw[metric] for of_draw in draws])
        return results


def _number(k: int | str, of_class: np.ndarray) -> int:
    """How many images of a class are drawn: `k` of them, a share of them but at least one, or all."""
    if isinstance(k, int):
        return k
    return len(of_class) if k == ALL else max(1, round(len(of_class) * (_percent(k) or 0) / 100))


def _percent(k: int | str) -> float | None:
    """The number in a text like `1%`, more than 0 and less than 100; None for anything else."""
    try:
        percent = float(k[:-1]) if isinstance(k, str) and k.endswith("%") else 0.0
    except ValueError:
        return None
    return percent if 0 < percent < 100 else None


def _seed(k: int | str) -> list[int]:
    return [k] if isinstance(k, int) else [0, round(1000 * (_percent(k) or 0))]


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
    """Refuse more shots than a class has images among `labels`."""
    classes, counts = np.unique(labels, return_counts=True)
    most = max((k for k in shots if isinstance(k, int)), default=0)
    if counts.min() < most:
        short = classes[counts < most].tolist()
        raise ValueError(f"`shots` {most} needs more images than class {short} has: choose at most {counts.min()}.")
