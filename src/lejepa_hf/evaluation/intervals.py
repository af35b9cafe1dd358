"""Confidence intervals: how far a figure may be from that of all images of the kind that was measured."""

import math
from collections.abc import Callable, Sequence

import numpy as np

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


def top_accuracies(name: str, best: Sequence[Sequence[int]], labels: Sequence[int]) -> dict[str, float]:
    """
    `<name>_top1`, and with at least five guesses per image `<name>_top5`, as in [`with_interval`]. `best` are the
    classes guessed for each test image, best first, and `labels` the correct ones.
    """
    from .metrics.top_k_accuracy import TopKAccuracy  # needs `datasets`, which training can do without

    results: dict[str, float] = {}
    for top, accuracy in TopKAccuracy().compute(predictions=best, references=labels).items():
        results |= with_interval(f"{name}_{top}", accuracy, len(labels))
    return results


def over_draws(name: str, accuracies: Sequence[float]) -> dict[str, float]:
    """
    The mean of at least two independent draws as `name`, half the width of its 95 % interval by Student's t as
    `<name>_ci95`, and the standard deviation of the draws as `<name>_std`.
    """
    from scipy.stats import t

    std, num_draws = float(np.std(accuracies, ddof=1)), len(accuracies)
    half_width = float(t.ppf(0.975, num_draws - 1)) * std / math.sqrt(num_draws)
    return {name: float(np.mean(accuracies)), name + INTERVAL: half_width, name + SPREAD: std}


def over_images(name: str, values: Sequence[float]) -> dict[str, float]:
    """The mean over test images as `name`, and for two or more of them its interval as in [`over_draws`]."""
    if len(values) < 2:
        return {name: float(values[0])}
    found = over_draws(name, values)
    return {key: found[key] for key in (name, name + INTERVAL)}


def over_resamples(name: str, figure: Callable[[np.ndarray], float], num_images: int) -> dict[str, float]:
    """
    A figure of test images as `name`, and for two or more of them as `<name>_ci95` half the width of its 95 %
    percentile interval over 1,000 bootstrap samples. `figure` computes it from an array of image numbers from 0 to
    `num_images` - 1, in which an image may occur several times.
    """
    from scipy.stats import bootstrap

    images = np.arange(num_images)
    found = {name: float(figure(images))}
    if num_images > 1:
        draws = bootstrap((images,), figure, vectorized=False, n_resamples=_RESAMPLES, method="percentile", rng=0)
        ends = draws.confidence_interval
        found[name + INTERVAL] = float(ends.high - ends.low) / 2
    return found


def is_spread(name: str) -> bool:
    """Whether a result is an interval or a standard deviation of another one."""
    return name.endswith((INTERVAL, SPREAD))
