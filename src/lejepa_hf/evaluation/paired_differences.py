"""Differences between two encoders on the same test images, which are surer than their two intervals suggest."""

from collections.abc import Mapping

import numpy as np

from .figures import Figures
from .intervals import INTERVAL, half_width, over_images
from .table import figure_text, markdown_table, readable_name


def difference(first: Figures, second: Figures, name: str) -> dict[str, float] | None:
    """
    `difference`, the figure of the second encoder minus that of the first; `ci95`, half the width of its 95 %
    interval by Student's t over the paired differences of test images, or of draws, and for figures that are not means
    by the bootstrap over test images, both encoders with the same samples; for accuracies `mcnemar_p`, the probability
    of a split at least as uneven of the images that only one of both has right, if both were equally good (McNemar's
    test, exact). None for a figure without samples, and for samples of different images.
    """
    if name in first.resamples and name in second.resamples:
        (number, of_first), (of_images, of_second) = first.resamples[name], second.resamples[name]
        found = {"difference": second[name] - first[name], "ci95": half_width(of_second - of_first)}
        return found if number == of_images else None
    one, other = first.samples.get(name), second.samples.get(name)
    if one is None or other is None or len(one) != len(other):
        return None
    found = over_images(name, (other - one).tolist())
    result = {"difference": found[name]}
    if name + INTERVAL in found:
        result["ci95"] = found[name + INTERVAL]
    if name.endswith("_top1") and np.isin([one, other], (0, 1)).all():
        result["mcnemar_p"] = mcnemar_p(one, other)
    return result


def mcnemar_p(first: np.ndarray, second: np.ndarray) -> float:
    """The two-sided p of McNemar's exact test for hits, 0 or 1, of two encoders on the same images; 1 if all agree."""
    from scipy.stats import binomtest

    only_first, only_second = int((first > second).sum()), int((second > first).sum())
    return float(binomtest(only_first, only_first + only_second).pvalue) if only_first + only_second else 1.0


def differences_to_first(found: Mapping[str, Figures]) -> dict[str, dict[str, dict[str, float]]]:
    """By name of each further encoder and of each figure, its [`difference`] to the first encoder."""
    if not found:
        return {}
    first, *others = found.items()
    return {
        name: {figure: result for figure in figures if (result := difference(first[1], figures, figure)) is not None}
        for name, figures in others
    }


def format_differences(first: str, differences: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """
    Differences to the encoder `first` as a Markdown table in points, errors in the unit of the labels in that unit; p
    is that of McNemar's test.
    """
    figures = list(dict.fromkeys(figure for of_encoder in differences.values() for figure in of_encoder))
    rows = [[f"points more than {first}", *differences]]
    of_encoders = differences.values()
    rows += [[readable_name(figure), *(_cell(figure, of.get(figure)) for of in of_encoders)] for figure in figures]
    return markdown_table(rows)


def _cell(figure: str, found: Mapping[str, float] | None) -> str:
    if found is None:
        return "–"
    text = figure_text(figure, found["difference"], "+")
    if "ci95" in found:
        text += f" ± {figure_text(figure, found['ci95'])}"
    if "mcnemar_p" in found:
        text += f", p {found['mcnemar_p']:.2g}"
    return text
