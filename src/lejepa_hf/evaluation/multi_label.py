"""Figures of images that may be of several classes: mean average precision and the mean area under the ROC curve."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from torch.nn import functional as F

from .embeddings.extraction import LabelledEmbeddings
from .figures import Figures
from .intervals import over_resamples

logger = logging.getLogger("lejepa_hf")

_NAMED = 5


def multi_label_figures(
    name: str, is_class: np.ndarray, scores: np.ndarray, class_names: Sequence[str] | None = None
) -> Figures:
    """
    `<name>_map`, the mean over classes of average precision, and `<name>_auroc`, that of the area under the ROC curve,
    with 95 % intervals over test images by the bootstrap, see [`~evaluation.intervals.over_resamples`]. Both equal
    those of scikit-learn. Classes without a positive or without a negative test image are left out and logged; a
    resample leaves out those that it has no such image of.

    Args:
        name (`str`): Beginning of the names.
        is_class (`np.ndarray` of shape `(num_images, num_classes)`): Whether each test image is of each class.
        scores (`np.ndarray` of that shape): Any numbers that are larger for images which are more likely of a class.
        class_names (`Sequence[str]`, *optional*): For the log.

    Raises:
        ValueError: If no class has both positive and negative test images, or a score is NaN or infinite.
    """
    if not np.isfinite(scores).all():
        raise ValueError(f"{name}: some scores are NaN or infinite: use another checkpoint, or a lower learning rate.")
    kept = np.flatnonzero(is_class.any(0) & ~is_class.all(0))
    names = [str(number) for number in range(is_class.shape[1])] if class_names is None else class_names
    left_out = [names[number] for number in range(is_class.shape[1]) if number not in set(kept.tolist())]
    if left_out:
        shown = ", ".join(left_out[:_NAMED]) + (", ..." if len(left_out) > _NAMED else "")
        found = f"{len(left_out)} of {is_class.shape[1]} classes ({shown}) have no positive or no negative test image"
        if not len(kept):
            raise ValueError(f"{found}: name another split with `eval_split`.")
        logger.info(f"{name}: {found} and are left out")
    ranked = _Ranked(is_class[:, kept].astype(np.float64), scores[:, kept])
    figures: dict[str, Callable[[np.ndarray], float]] = {"map": ranked.average_precision, "auroc": ranked.auroc}
    results = Figures()
    for metric, figure in figures.items():
        results |= over_resamples(f"{name}_{metric}", figure, len(is_class))
    return results


def with_classes_of(train: LabelledEmbeddings, test: LabelledEmbeddings) -> LabelledEmbeddings:
    """Training images whose labels have a column for each class of test images, 0 in those that only these have."""
    new = test.labels.shape[1] - train.labels.shape[1]
    return replace(train, labels=F.pad(train.labels, (0, new))) if new > 0 else train


class _Ranked:
    """
    Images sorted by their score, for each class; `(num_images, num_classes)` all. A bootstrap sample only changes how
    often an image counts, so that it needs no sorting. Images of one score stand and fall together: `last` is the
    place of the last one of them, `before` that in front of the first one, counted from 1.
    """

    def __init__(self, is_class: np.ndarray, scores: np.ndarray) -> None:
        number = len(scores)
        self._order = np.argsort(-scores, axis=0, kind="stable")
        self._positive = np.take_along_axis(is_class, self._order, 0)
        ranked = np.take_along_axis(scores, self._order, 0)
        place = np.arange(1, number + 1)[:, None]
        changes = ranked[1:] != ranked[:-1]
        none = np.ones((1, ranked.shape[1]), dtype=bool)
        self._before = np.maximum.accumulate(np.where(np.concatenate([none, changes]), place - 1, 0), axis=0)
        ends = np.where(np.concatenate([changes, none]), place, number)
        self._last = np.minimum.accumulate(ends[::-1], axis=0)[::-1]

    def average_precision(self, images: np.ndarray) -> float:
        """The mean over classes of the precision at the score of each positive image."""
        weights, positive = self._weighted(images)
        found, all_so_far = _at(np.cumsum(positive, 0), self._last), _at(np.cumsum(weights, 0), self._last)
        precision = np.divide(found, all_so_far, out=np.zeros_like(found), where=all_so_far > 0)
        total = positive.sum(0)
        return _mean((positive * precision).sum(0), total, total > 0)

    def auroc(self, images: np.ndarray) -> float:
        """The mean over classes of the share of pairs, a positive and a negative image, in the right order."""
        weights, positive = self._weighted(images)
        negative = np.concatenate([np.zeros((1, weights.shape[1])), np.cumsum(weights - positive, 0)])
        total, pairs = negative[-1], positive.sum(0) * negative[-1]
        above, equal_or_above = (np.take_along_axis(negative, at, 0) for at in (self._before, self._last))
        right = (positive * (total - (above + equal_or_above) / 2)).sum(0)
        return _mean(right, pairs, pairs > 0)

    def _weighted(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How often each image counts, in each class's order, and as a positive one."""
        weights = np.bincount(images, minlength=len(self._order)).astype(np.float64)[self._order]
        return weights, weights * self._positive


def _at(sums: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Running sums at places that count from 1."""
    return np.take_along_axis(sums, places - 1, 0)


def _mean(values: np.ndarray, divisors: np.ndarray, is_known: np.ndarray) -> float:
    """The mean of quotients over the classes that have one; 0 if none has."""
    return float((values[is_known] / divisors[is_known]).mean()) if is_known.any() else 0.0
