"""
The Epps-Pulley statistic in plain PyTorch: the definition of correct for every other implementation.

V views, B images, K projection dimensions, M slices, T knots.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch

Redraw = Callable[[], torch.Tensor]  # draws the directions again for backward


class Quadrature(NamedTuple):
    """Rule for the integral over frequencies t: the distance of its knots, and tensors of shape `(T,)`."""

    spacing: float
    knots: torch.Tensor  # equispaced frequencies from 0
    normal: torch.Tensor  # characteristic function of N(0, 1) at the knots, exp(-t^2 / 2)
    weights: torch.Tensor  # trapezoid weights times the window exp(-t^2 / 2)


@functools.lru_cache(maxsize=16)
def quadrature(
    num_knots: int, t_max: float, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Quadrature:
    """
    The trapezoid rule with `num_knots` equispaced knots on `[0, t_max]`, doubled.

    The integrand is even in t, so this equals the rule with `2 * num_knots - 1` knots on `[-t_max, t_max]`. It is
    computed in double precision, and cached for each device, because a copy to a GPU at every step would wait for the
    GPU.
    """
    if num_knots < 2:
        raise ValueError(f"`num_knots` must be at least 2, got {num_knots}.")
    if not 0 < t_max < math.inf:
        raise ValueError(f"`t_max` must be positive and finite, got {t_max}.")
    spacing = t_max / (num_knots - 1)
    # Device and dtype are given, because the default device is meta inside `from_pretrained`. Inference mode is off,
    # because the first call may come from an evaluation and backward cannot save inference tensors.
    with torch.inference_mode(False):
        knots = torch.arange(num_knots, device="cpu", dtype=torch.float64) * spacing
        normal = torch.exp(-knots.square() / 2)
        weights = 2 * spacing * normal
        weights[[0, -1]] /= 2
        return Quadrature(spacing, *(table.to(device, dtype) for table in (knots, normal, weights)))


mean_statistic = None  # this implementation always goes by sums


def deviation_sums(
    projections: torch.Tensor, directions: torch.Tensor, rule: Quadrature, redraw: Redraw | None = None
) -> torch.Tensor:
    """
    How far the empirical characteristic function of every slice is from that of N(0, 1), summed over images.

    Projections `(V, B, K)` and unit directions `(K, M)`, both fp32, give `(2, V, M, T)`: sums over images of `cos(t x)
    - exp(-t^2 / 2)` and of `sin(t x)`. `redraw` is not used here, because everything is kept for backward.
    """
    angles = (projections @ directions).unsqueeze(-1) * rule.knots  # (V, B, M, T)
    return torch.stack([angles.cos().sum(1) - projections.shape[1] * rule.normal, angles.sin().sum(1)])


def statistic_from_sums(sums: torch.Tensor, num_images: torch.Tensor | int, rule: Quadrature) -> torch.Tensor:
    """
    Epps-Pulley statistic `N * integral |phi_N(t) - exp(-t^2 / 2)|^2 exp(-t^2 / 2) dt` against N(0, 1), `(V, M)`.

    `sums` are [`deviation_sums`] over all N = `num_images` images of the global batch. The mean is about 1.05 for
    normal samples, whatever N.

    Source: arXiv 2511.08544, algorithm 1, with the window of its code, `exp(-t^2 / 2)`.
    """
    return sums.square().sum(0) @ rule.weights / num_images
