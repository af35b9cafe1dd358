"""Confidence intervals: how far a figure may be from that of all images of the kind that was measured."""

import math
from collections.abc import Sequence

import numpy as np

INTERVAL, SPREAD = "_ci95", "_std"


def with_interval(name: str, accuracy: float, num_images: int) -> dict[str, float]:
    """
    Put Wilson's score interval beside an accuracy.

    Args:
        name (`str`): Name of the metric.
        accuracy (`float`): Share of hits, in [0, 1].
        num_images (`int`): Number of images that were classified.

    Returns:
        `dict[str, float]`: `name`, and `<name>_ci95`: the distance from it to the farther end of its 95 % interval
            over
        draws of test images. Wilson's interval is not centred on the accuracy: half its width to either side would
        leave out the true value too often near 1, where its lower end is the farther one.
    """
    from scipy.stats import binomtest

    ends = binomtest(round(accuracy * num_images), num_images).proportion_ci(0.95, method="wilson")
    return {name: accuracy, name + INTERVAL: float(max(accuracy - ends.low, ends.high - accuracy))}


def over_draws(name: str, accuracies: Sequence[float]) -> dict[str, float]:
    """
    Put Student's interval beside the mean of several draws.

    Args:
        name (`str`): Name of the metric.
        accuracies (`Sequence[float]`): Accuracies of at least two independent draws.

    Returns:
        `dict[str, float]`: `name`, their mean; `<name>_ci95`, half the width of the mean's 95 % interval by Student's
        t; `<name>_std`, their standard deviation.
    """
    from scipy.stats import t

    std, num_draws = float(np.std(accuracies, ddof=1)), len(accuracies)
    half_width = float(t.ppf(0.975, num_draws - 1)) * std / math.sqrt(num_draws)
    return {name: float(np.mean(accuracies)), name + INTERVAL: half_width, name + SPREAD: std}


def over_images(name: str, values: Sequence[float]) -> dict[str, float]:
    """
    Put Student's interval beside the mean over test images.

    Args:
        name (`str`): Name of the metric.
        values (`Sequence[float]`): Value of each test image.

    Returns:
        `dict[str, float]`: `name`, their mean; of two and more `<name>_ci95`, half the width of the mean's 95 %
        interval by Student's t.
    """
    if len(values) < 2:
        return {name: float(values[0])}
    found = over_draws(name, values)
    return {key: found[key] for key in (name, name + INTERVAL)}


def over_resamples(name: str, value: float, resampled: np.ndarray) -> dict[str, float]:
    """
    Put the bootstrap's percentile interval beside a figure. The draws come from the caller, who can often compute all
    of them by one product of matrices; `scipy.stats.bootstrap` would compute the figure once for each draw.

    Args:
        name (`str`): Name of the metric.
        value (`float`): Its value on all test images.
        resampled (`np.ndarray` of shape `(num_draws,)`): Its values on as many test images drawn with replacement.

    Returns:
        `dict[str, float]`: `name`, and `<name>_ci95`, half the distance from 2.5 % to 97.5 % of the draws.
    """
    low, high = np.quantile(resampled, [0.025, 0.975])
    return {name: value, name + INTERVAL: float(high - low) / 2}


def is_spread(name: str) -> bool:
    """Whether a result is an interval or a standard deviation of another one."""
    return name.endswith((INTERVAL, SPREAD))
