"""How far an accuracy may be from that of all images of the kind that was measured."""

import math
from collections.abc import Sequence

INTERVAL, SPREAD = "_ci95", "_std"
_Z = 1.959963984540054  # 95 % of a normal variable lie within


def with_interval(name: str, accuracy: float, num_images: int) -> dict[str, float]:
    """
    Args:
        name (`str`): Of the metric.
        accuracy (`float`): Share of hits, in [0, 1].
        num_images (`int`): How many were classified.

    Returns:
        `dict[str, float]`: `name`, and `<name>_ci95`: how far the farther end of its 95 % interval over draws of test
        images is from it.

    Source: Wilson's score interval, which has a width at 0 and 1 too. It is not centred on the accuracy: half its
    width to either side would leave out the true value too often near 1, where its lower end is the farther one.
    """
    spread = math.sqrt(accuracy * (1 - accuracy) / num_images + _Z**2 / (4 * num_images**2))
    half_width, off_centre = _Z * spread, abs(0.5 - accuracy) * _Z**2 / num_images
    return {name: accuracy, name + INTERVAL: (half_width + off_centre) / (1 + _Z**2 / num_images)}


def over_draws(name: str, accuracies: Sequence[float]) -> dict[str, float]:
    """
    Args:
        name (`str`): Of the metric.
        accuracies (`Sequence[float]`): Of at least two independent draws.

    Returns:
        `dict[str, float]`: `name`, their mean; `<name>_ci95`, half the width of the mean's 95 % interval by Student's
        t; `<name>_std`, their standard deviation.
    """
    import numpy as np
    from scipy.stats import t

    std, num_draws = float(np.std(accuracies, ddof=1)), len(accuracies)
    half_width = float(t.ppf(0.975, num_draws - 1)) * std / math.sqrt(num_draws)
    return {name: float(np.mean(accuracies)), name + INTERVAL: half_width, name + SPREAD: std}


def over_images(name: str, values: Sequence[float]) -> dict[str, float]:
    """
    Args:
        name (`str`): Of the metric.
        values (`Sequence[float]`): Of each test image.

    Returns:
        `dict[str, float]`: `name`, their mean; of two and more `<name>_ci95`, half the width of the mean's 95 %
        interval by Student's t.
    """
    if len(values) < 2:
        return {name: float(values[0])}
    found = over_draws(name, values)
    return {key: found[key] for key in (name, name + INTERVAL)}


def over_resamples(name: str, value: float, resampled) -> dict[str, float]:
    """
    Args:
        name (`str`): Of the metric.
        value (`float`): On all test images.
        resampled (`np.ndarray` of shape `(num_draws,)`): On test images drawn with replacement, as many.

    Returns:
        `dict[str, float]`: `name`, and `<name>_ci95`, half the distance from 2.5 % to 97.5 % of the draws.
    """
    import numpy as np

    low, high = np.quantile(resampled, [0.025, 0.975])
    return {name: value, name + INTERVAL: float(high - low) / 2}


def is_spread(name: str) -> bool:
    """Whether a result only says how far another one may be off."""
    return name.endswith((INTERVAL, SPREAD))
