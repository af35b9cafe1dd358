"""Classification from a few labelled images a class."""

import logging
from collections.abc import Sequence

import numpy as np

from ..embeddings.extraction import LabelledEmbeddings
from ..intervals import over_draws, with_interval
from .logistic_regression import fit_logistic

logger = logging.getLogger("lejepa_hf")

ALL = "all"
SHOTS = (1, 2, 5, 10, 100, ALL)
_MOST_IMAGES = 100_000  # to be fitted at once unless asked for
_FEW, _DRAWS_OF_MANY = 10, 5  # with more shots, draws differ little and each takes long


def few_shot(
    train: LabelledEmbeddings,
    test: LabelledEmbeddings,
    shots: Sequence[int | str] | None = None,
    num_draws: int = 20,
    seed: int = 0,
) -> dict[str, float]:
    """
    Logistic regression on standardised embeddings of a few random images a class, over several draws.

    Args:
        train ([`LabelledEmbeddings`]): Where the images are drawn from.
        test ([`LabelledEmbeddings`]): Measures every draw.
        shots (`Sequence[int | str]`, *optional*): Images a class, or `"all"` of them. If missing, 1, 2, 5, 10, 100
            and all, without those that a class is too small for, and without all of more than 100,000 images.
        num_draws (`int`, *optional*, defaults to 20): Independent draws, at least 2; with more than 10 shots 5.
        seed (`int`, *optional*, defaults to 0): Of the draws: the same images for every encoder.

    Returns:
        `dict[str, float]`: For each k `eval_<k>shot_top1`, the mean over draws, `eval_<k>shot_top1_ci95` and
        `eval_<k>shot_top1_std`, see [`over_draws`]; where all images of all classes are taken the interval is that of
        [`with_interval`].

    Raises:
        ValueError: If a class has fewer images than shots; the message says which.

    Source: shots and sets are those of arXiv 2511.08544, Tables 2 and 3; how it fits them is not published, and the
    fit here is ours.
    """
    embeddings, labels = train.embeddings.numpy(), train.labels.numpy()
    held_out, expected = test.embeddings.numpy(), test.labels.numpy()
    shots = fitting_shots(labels) if shots is None else shots
    check_shots(shots, labels)
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    results = {}
    for k in shots:
        if k == ALL or all(len(rows_of_class) == k for rows_of_class in members):  # there is one draw
            score = fit_logistic(embeddings, labels).score(held_out, expected)
            results |= with_interval(f"eval_{k}shot_top1", float(score), len(expected))
            continue
        accuracies = []
        for draw in range(num_draws if k <= _FEW else min(num_draws, _DRAWS_OF_MANY)):
            rng = np.random.default_rng([seed, k, draw])
            rows = np.concatenate([rng.choice(rows_of_class, k, replace=False) for rows_of_class in members])
            accuracies.append(fit_logistic(embeddings[rows], labels[rows]).score(held_out, expected))
        results |= over_draws(f"eval_{k}shot_top1", accuracies)
    return results


def fitting_shots(labels) -> list[int | str]:
    """Those of 1, 2, 5, 10, 100 and all that every class has images for, all only of 100,000 images at most."""
    fewest = int(np.unique(labels, return_counts=True)[1].min())
    fitting = [k for k in SHOTS if k == ALL or k <= fewest]
    if len(fitting) < len(SHOTS):
        left_out = [str(k) for k in SHOTS if k not in fitting]
        logger.info(f"The smallest class has {fewest} images: {' and '.join(left_out)} shots are left out.")
    if len(labels) > _MOST_IMAGES:
        logger.info(f"Logistic regression on all {len(labels):,} images would take hours: ask for it with `shots`.")
        fitting.remove(ALL)
    return fitting


def check_shots(shots: Sequence[int | str], labels) -> None:
    """
    Args:
        shots (`Sequence[int | str]`): Numbers of images a class, or `"all"`.
        labels (`np.ndarray` of shape `(num_images,)`): Of the images to draw from.

    Raises:
        ValueError: If they are none, or a class has fewer images; the message says which.
    """
    for k in shots:
        if k != ALL and (not isinstance(k, int) or k < 1):
            raise ValueError(f"`shots` {k!r} is neither a number of images a class, at least 1, nor {ALL!r}.")
    classes, counts = np.unique(labels, return_counts=True)
    most = max((k for k in shots if k != ALL), default=0)
    if counts.min() < most:
        short = classes[counts < most].tolist()
        raise ValueError(
            f"`shots` {most} is more than the images of class {short}: lower it, {counts.min()} at the most."
        )
