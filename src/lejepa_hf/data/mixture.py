"""Mixture: several datasets drawn from with weights."""

from dataclasses import dataclass
from math import inf
from numbers import Real


@dataclass
class Mixture:
    """
    Several datasets whose rows are mixed.

    Args:
        datasets (`list`): All map-style or all streams; rows have one column, `image`, undecoded.
        weights (`list[float]`): Share of each in what is drawn; normalised to sum 1.
    """

    datasets: list
    weights: list[float]

    def __post_init__(self):
        if len(self.datasets) != len(self.weights) or not self.datasets:
            raise ValueError(
                f"`weights` must have one number for each of the {len(self.datasets)} datasets, got {self.weights}."
            )
        if not all(isinstance(weight, Real) and 0 < weight < inf for weight in self.weights):
            raise ValueError(f"`weights` must be positive numbers, got {self.weights}.")
        total = sum(self.weights)
        self.weights = [weight / total for weight in self.weights]
