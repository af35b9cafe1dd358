"""Confidence intervals: how far a figure may be from that of all images of the kind that was measured."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from .figures import Figures

INTERVAL, SPREAD = "_ci95", "_std"
_RESAMPLES = 1000


def with_interval(name: str, accuracy: float, num_images: int) -> dict[str, float]:
    """
    An accuracy in [0, 1] of `num_images` test images as `name`, and as `<name>_ci95` the distance from it to the
    farther end of Wilson's 95 % score interval. The interval is not centred on the accuracy: half its width to either
    side would leave out the true value too often near 1, where its lower end is the farther one.
    """
    from scipy.stats import binomtest

    ends = binomtest(round(accuracy * num_images), num_images).proportion_ci(0.95, method="wilson")
    return {name: accuracy, name + INTERVAL: float(max(accuracy - ends.low, ends.high - accuracy))}


def over_draws(name: str, accuracies: Sequence[float]) -> Figures:
    """
    The mean of at least two independent draws as `name`, half the width of its 95 % interval by Student's t as
    `<name>_ci95`, and the standard deviation of the draws as `<name>_std`.
    """
    from scipy.stats import t

    std, num_draws = float(np.std(accuracies, ddof=1)), len(accuracies)
    half_width = float(t.ppf(0.975, num_draws - 1)) * std / math.sqrt(num_draws)
    figures = {name: float(np.mean(accuracies)), name + INTERVAL: half_width, name + SPREAD: std}
    return Figures(figures, {name: np.asarray(accuracies, dtype=np.float64)})


def over_images(name: str, values: Sequence[float]) -> Figures:
    """The mean over test images as `name`, and for two or more of them its interval as in [`over_draws`]."""
    if len(values) < 2:
        return Figures({name: float(values[0])}, {name: np.asarray(values, dtype=np.float64)})
    found = over_draws(name, values)
    return Figures({key: found[key] for key in (name, name + INTERVAL)}, found.samples)


def over_classes(name: str, hits: np.ndarray, labels: np.ndarray) -> Figures:
    """
    The mean over classes of the share of their test images that are right, and its interval: Wilson's of each class,
    combined by the method of variance estimates recovery (Zou and Donner, Statistics in Medicine 27, 2008).

    Args:
        name (`str`): Name of the figure.
        hits (`np.ndarray`): Whether each test image is right.
        labels (`np.ndarray`): Class numbers of the test images.
    """
    from scipy.stats import binomtest

    numbers, places, counts = np.unique(labels, return_inverse=True, return_counts=True)
    right = np.bincount(places, weights=hits)
    shares = right / counts
    ends = [binomtest(int(k), int(n)).proportion_ci(0.95, method="wilson") for k, n in zip(right, counts, strict=True)]
    below = math.sqrt(sum((share - end.low) ** 2 for share, end in zip(shares, ends, strict=True)))
    above = math.sqrt(sum((end.high - share) ** 2 for share, end in zip(shares, ends, strict=True)))
    mean = float(shares.mean())
    influences = (hits - shares[places]) * len(labels) / (counts[places] * len(numbers))
    return Figures({name: mean, name + INTERVAL: max(below, above) / len(numbers)}, {name: mean + influences})


def over_linearised(name: str, value: float, influences: np.ndarray) -> Figures:
    """
    A figure that is not a mean over test images, and its 95 % interval by Student's t. `influences` has a number for
    each image, with mean 0; `value + influences` then has the mean `value`, and the standard error of the figure.
    """
    return Figures(over_images(name, (value + influences).tolist()) | {name: value}, {name: value + influences})


def over_resamples(name: str, figure: Callable[[np.ndarray], float], num_images: int) -> Figures:
    """
    A figure of test images as `name`, and for two or more of them as `<name>_ci95` half the width of its 95 %
    percentile interval over 1,000 bootstrap samples, which are the same for equal numbers of images. `figure` computes
    it from an array of image numbers from 0 to `num_images` - 1, in which an image may occur several times.
    """
    from scipy.stats import bootstrap

    images = np.arange(num_images)
    found = Figures({name: float(figure(images))})
    if num_images > 1:
        draws = bootstrap((images,), figure, vectorized=False, n_resamples=_RESAMPLES, method="percentile", rng=0)
        found[name + INTERVAL] = half_width(draws.bootstrap_distribution)
        found.resamples[name] = num_images, draws.bootstrap_distribution
    return found


def half_width(resamples: np.ndarray) -> float:
    """Half the width of the 95 % percentile interval of values of bootstrap samples."""
    low, high = np.percentile(resamples, (2.5, 97.5))
    return float(high - low) / 2


def is_spread(name: str) -> bool:
    """Whether a result is an interval or a standard deviation of another one."""
    return name.endswith((INTERVAL, SPREAD))
