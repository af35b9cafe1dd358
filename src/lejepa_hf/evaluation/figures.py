"""Figures of a protocol, with what is needed to compare two encoders on the same test images."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


class Figures(dict[str, float]):
    """
    Figures in [0, 1] by name, and what two encoders are compared in pairs by, which are evaluated alike and thus have
    it for the same images in the same order.

    `samples` are the values whose mean a figure is: of single test images, in their order, or of the draws of labelled
    images. Of a figure that is not a mean, `resamples` are the number of test images and its values in bootstrap
    samples of them.
    """

    def __init__(
        self,
        figures: Mapping[str, float] = {},
        samples: Mapping[str, np.ndarray] = {},
        resamples: Mapping[str, tuple[int, np.ndarray]] = {},
    ) -> None:
        super().__init__(figures)
        self.samples: dict[str, np.ndarray] = dict(samples)
        self.resamples: dict[str, tuple[int, np.ndarray]] = dict(resamples)

    def __or__(self, other: Mapping[str, float]) -> Figures:  # type: ignore[override]
        """Both together, with the samples of both."""
        joined = Figures(self, self.samples, self.resamples)
        joined |= other
        return joined

    def __ior__(self, other: Mapping[str, float]) -> Figures:  # type: ignore[override]
        """Add those of another protocol."""
        self.update(other)
        if isinstance(other, Figures):
            self.samples |= other.samples
            self.resamples |= other.resamples
        return self
