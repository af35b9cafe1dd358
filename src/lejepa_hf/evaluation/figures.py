"""Figures of a protocol, with what is needed to compare two encoders on the same test images."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


class Figures(dict[str, float]):
    """
    Figures in [0, 1] by name, and in `samples` the values whose mean a figure is: of single test images, in their
    order, or of the draws of labelled images. Encoders that are evaluated alike have samples in the same order, so
    that they can be compared in pairs.
    """

    def __init__(self, figures: Mapping[str, float] = {}, samples: Mapping[str, np.ndarray] = {}) -> None:
        super().__init__(figures)
        self.samples: dict[str, np.ndarray] = dict(samples)

    def __or__(self, other: Mapping[str, float]) -> Figures:  # type: ignore[override]
        """Both together, with the samples of both."""
        return Figures({**self, **other}, {**self.samples, **_samples_of(other)})

    def __ior__(self, other: Mapping[str, float]) -> Figures:  # type: ignore[override]
        """Add those of another protocol."""
        self.update(other)
        self.samples |= _samples_of(other)
        return self


def _samples_of(figures: Mapping[str, float]) -> dict[str, np.ndarray]:
    return figures.samples if isinstance(figures, Figures) else {}
