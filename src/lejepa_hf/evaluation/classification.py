"""Figures of a classifier on held-out images: accuracies, and those that weigh rare classes like frequent ones."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.nn import functional as F

from .figures import Figures
from .intervals import over_classes, over_linearised, over_resamples, with_interval

_DEPTHS = {"top1": 1, "top5": 5}
_BY_CLASS = ("mean-per-class", "macro-f1", "auroc")
METRICS = (*_DEPTHS, *_BY_CLASS)
_UNBALANCED, _CHANCE = 2, 0.01
_MOST_SCORES = 50_000_000  # images x classes for AUROC, unless it is asked for


def check_metrics(metrics: Sequence[str] | None) -> None:
    """Refuse unknown names of metrics; None stands for those that suit the labels."""
    if metrics is not None and not metrics:
        raise ValueError(f"`metrics` is empty: name some of {', '.join(METRICS)}, or leave it out.")
    if unknown := [name for name in metrics or () if name not in METRICS]:
        raise ValueError(f"`metrics` {', '.join(unknown)} unknown; known are {', '.join(METRICS)}.")


def is_unbalanced(labels: Sequence[int] | np.ndarray | torch.Tensor) -> bool:
    """
    Whether the largest class has at least twice the images of the smallest one, and sizes differ by more than chance:
    equal shares would give such sizes with a probability below 1 % (chi-square test).
    """
    from scipy.stats import chisquare

    counts = np.unique(np.asarray(labels), return_counts=True)[1]
    if len(counts) < 2 or counts.max() < _UNBALANCED * counts.min():
        return False
    return float(chisquare(counts).pvalue) < _CHANCE


def chosen_metrics(
    metrics: Sequence[str] | None, labels: np.ndarray | torch.Tensor, usual: Sequence[str] = tuple(_DEPTHS)
) -> list[str]:
    """The metrics that are asked for; without a choice the `usual` ones, and all by class if labels are unbalanced."""
    if metrics is None:
        metrics = [*usual, *(_BY_CLASS if is_unbalanced(labels) else ())]
        if len(labels) * len(np.unique(np.asarray(labels))) > _MOST_SCORES:
            metrics = [name for name in metrics if name != "auroc"]
    return [name for name in METRICS if name in metrics]


class ClassPredictions:
    """
    What a classifier says of held-out images, collected in chunks.

    Args:
        labels (`torch.Tensor`): Class numbers `(num_images,)` of all held-out images.
        metrics (`Sequence[str]`, *optional*): Any of `METRICS`. If missing, `usual` ones, and for unbalanced labels
            those that weigh rare classes like frequent ones.
        usual (`Sequence[str]`, *optional*, defaults to `("top1", "top5")`): Metrics that suit all labels.
        only_present (`bool`, *optional*, defaults to `False`): Whether only classes that `labels` have are guessed.
    """

    def __init__(
        self,
        labels: torch.Tensor,
        metrics: Sequence[str] | None = None,
        usual: Sequence[str] = tuple(_DEPTHS),
        only_present: bool = False,
    ) -> None:
        self._only_present = only_present
        self._labels, self._classes = labels.numpy(), np.unique(labels.numpy())
        self._metrics = chosen_metrics(metrics, self._labels, usual)
        self._best: list[np.ndarray] = []
        self._scores: list[np.ndarray] = []

    def add(self, probabilities: torch.Tensor, classes: torch.Tensor | None = None) -> None:
        """
        Add the next images: `probabilities` are `(num_images, num_classes)`, and `classes` the class numbers of their
        columns, which count from 0 if missing. ValueError if some are NaN or infinite.
        """
        if bad := int((~probabilities.isfinite().all(1)).sum()):
            raise ValueError(
                f"The classifier gives {bad:,} of {len(probabilities):,} images NaN or infinite scores, so that no "
                "figure can be measured: use another checkpoint of the encoder, or a lower learning rate."
            )
        if self._only_present:
            columns = torch.arange(probabilities.shape[1]) if classes is None else classes
            absent = ~torch.isin(columns, torch.from_numpy(self._classes))
            probabilities = probabilities.masked_fill(absent, -1)  # below those of all others
        depth = min(_DEPTHS["top5"], probabilities.shape[1]) if "top5" in self._metrics else 1
        best = probabilities.topk(depth).indices if depth > 1 else probabilities.argmax(1, keepdim=True)
        self._best.append((best if classes is None else classes[best]).numpy())
        if "auroc" in self._metrics:
            self._scores.append(self._of_present(probabilities, classes))

    def values(self) -> dict[str, float]:
        """What [`figures`] are, by the name of the metric alone and without intervals."""
        best, labels = np.concatenate(self._best), self._labels
        found = {name: value for name, value in self._accuracies(best).items() if name in self._metrics}
        if "mean-per-class" in self._metrics:
            hits = best[:, 0] == labels
            found["mean_per_class"] = float(np.mean([hits[labels == number].mean() for number in self._classes]))
        if "macro-f1" in self._metrics:
            found["macro_f1"] = macro_f1_of(labels, best[:, 0])(np.arange(len(labels)))
        if "auroc" in self._metrics and len(self._classes) > 1:
            found["auroc"] = mean_auroc("auroc", *self._by_class())["auroc"]
        return found

    def figures(self, name: str) -> Figures:
        """
        `<name>_top1`; `<name>_top5` with at least five classes; `<name>_mean_per_class`, the mean over classes of
        their accuracies, which is balanced accuracy; `<name>_macro_f1`, the mean over classes of F1; `<name>_auroc`,
        the mean over classes of the area under the ROC curve of each against the rest. Classes are those of the
        held-out images; F1 also counts, as 0, classes that only the guesses have.
        """
        best, labels, found = np.concatenate(self._best), self._labels, Figures()
        for metric, accuracy in self._accuracies(best).items():
            if metric in self._metrics:
                hits = (best[:, : _DEPTHS[metric]] == labels[:, None]).any(1)
                found |= Figures(
                    with_interval(f"{name}_{metric}", accuracy, len(labels)), {f"{name}_{metric}": hits.astype(float)}
                )
        if "mean-per-class" in self._metrics:
            found |= over_classes(f"{name}_mean_per_class", best[:, 0] == labels, labels)
        if "macro-f1" in self._metrics:
            found |= over_resamples(f"{name}_macro_f1", macro_f1_of(labels, best[:, 0]), len(labels))
        if "auroc" in self._metrics and len(self._classes) > 1:
            found |= mean_auroc(f"{name}_auroc", *self._by_class())
        return found

    def _accuracies(self, best: np.ndarray) -> dict[str, float]:
        from .metrics.top_k_accuracy import top_k_shares  # needs `datasets`, which training can do without

        return top_k_shares(best, self._labels)

    def _by_class(self) -> tuple[np.ndarray, np.ndarray]:
        """Whether each image is of each class, and its scores: both `(num_images, num_classes)`."""
        return self._labels[:, None] == self._classes, np.concatenate(self._scores)

    def _of_present(self, probabilities: torch.Tensor, classes: torch.Tensor | None) -> np.ndarray:
        """Columns of the classes of held-out images; 0 for one that the classifier does not know."""
        known = np.arange(probabilities.shape[1]) if classes is None else classes.numpy()
        columns = {number: column for column, number in enumerate(known.tolist())}
        scores = np.zeros((len(probabilities), len(self._classes)), dtype=np.float32)
        for place, number in enumerate(self._classes.tolist()):
            if number in columns:
                scores[:, place] = probabilities[:, columns[number]].numpy()
        return scores


def hits_and_certainty(logits: torch.Tensor, labels: torch.Tensor) -> tuple[int, float]:
    """
    The number of images that are right, and the sum of the log-probabilities of their correct classes, which decides
    between classifiers with equal numbers, from logits `(num_images, num_classes)`.
    """
    hits = int((logits.argmax(1) == labels).sum())
    return hits, -float(F.cross_entropy(logits, labels, reduction="sum"))


def macro_f1_of(labels: np.ndarray, guesses: np.ndarray) -> Callable[[np.ndarray], float]:
    """A function from image numbers to macro F1, over the classes that these images have or are taken for."""
    numbers, places = np.unique(np.concatenate([labels, guesses]), return_inverse=True)
    labels, guesses = np.split(places, 2)

    def figure(images: np.ndarray) -> float:
        of_images, taken_for = labels[images], guesses[images]
        hits = np.bincount(of_images[of_images == taken_for], minlength=len(numbers))
        either = np.bincount(of_images, minlength=len(numbers)) + np.bincount(taken_for, minlength=len(numbers))
        return float((2 * hits[either > 0] / either[either > 0]).mean())

    return figure


def mean_auroc(name: str, is_class: np.ndarray, scores: np.ndarray) -> Figures:
    """
    The mean over classes of the area under the ROC curve, ties counted half, and its interval by the method of DeLong
    et al. (Biometrics 44, 1988), for `is_class` and `scores` of shape `(num_images, num_classes)`.
    """
    areas, influence = zip(*(_area(*columns) for columns in zip(is_class.T, scores.T, strict=True)), strict=True)
    return over_linearised(name, float(np.mean(areas)), np.mean(influence, axis=0))


def _area(is_positive: np.ndarray, scores: np.ndarray) -> tuple[float, np.ndarray]:
    """
    The area of one class, and the influence of each image on it, with mean 0. An image's placement value is the share
    of images of the other kind that it is ranked correctly against; the area is the mean placement of the positive
    images, and the influence is the distance from it, divided by the share of images of the same kind.
    """
    from scipy.stats import rankdata

    number = len(scores)
    num_positive = int(is_positive.sum())
    ranks, placement = rankdata(scores), np.empty(number)
    for members, sign in ((is_positive, 1), (~is_positive, -1)):
        below = (ranks[members] - rankdata(scores[members])) / (number - members.sum())
        placement[members] = below if sign > 0 else 1 - below
    area = float(placement[is_positive].mean())
    share = np.where(is_positive, num_positive, number - num_positive) / number
    return area, (placement - area) / share
