"""
The Epps-Pulley statistic in plain PyTorch: the definition of correct for every other implementation.

V views, B images, K projection dimensions, M slices, T knots.
"""

import math

import torch


def quadrature(num_knots: int, t_max: float, device: torch.device | str) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Knots and weights of the integral over frequencies.

    The integrand is even in t, so the trapezoid rule on `[0, t_max]` with doubled weights is the rule with
    `2 * num_knots - 1` knots on `[-t_max, t_max]`. The weights include the window `exp(-t^2 / 2)`.

    Args:
        num_knots (`int`): Number of equispaced knots, at least 2.
        t_max (`float`): The last knot, positive.
        device (`torch.device` or `str`): Where both tensors go.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: knots and weights, both fp32 of shape `(num_knots,)`.

    Raises:
        ValueError: If there are fewer than two knots or `t_max` is not positive.
    """
    if num_knots < 2:
        raise ValueError(f"`num_knots` must be at least 2, got {num_knots}.")
    if t_max <= 0:
        raise ValueError(f"`t_max` must be positive, got {t_max}.")
    # Explicit device and dtype: inside `from_pretrained` the default device is meta.
    knots = torch.linspace(0, t_max, num_knots, device="cpu", dtype=torch.float64)
    weights = torch.full_like(knots, 2 * t_max / (num_knots - 1))
    weights[[0, -1]] /= 2
    weights *= torch.exp(-knots.square() / 2)
    return knots.to(device, torch.float32), weights.to(device, torch.float32)


def characteristic_sums(projections: torch.Tensor, directions: torch.Tensor, knots: torch.Tensor) -> torch.Tensor:
    """
    Unnormalised empirical characteristic function of every slice, at every knot.

    Args:
        projections (`torch.Tensor` of shape `(V, B, K)`): fp32.
        directions (`torch.Tensor` of shape `(K, M)`): Unit columns, fp32.
        knots (`torch.Tensor` of shape `(T,)`): Frequencies, fp32.

    Returns:
        `torch.Tensor` of shape `(2, V, M, T)`: sums over images of `cos(t x)` and of `sin(t x)`.
    """
    angles = (projections @ directions).unsqueeze(-1) * knots  # (V, B, M, T)
    return torch.stack([angles.cos().sum(1), angles.sin().sum(1)])


def statistic_from_sums(
    sums: torch.Tensor, num_images: torch.Tensor | int, knots: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """
    Epps-Pulley statistic `N * integral |phi_N(t) - exp(-t^2 / 2)|^2 exp(-t^2 / 2) dt` against N(0, 1).

    Args:
        sums (`torch.Tensor` of shape `(2, V, M, T)`): [`characteristic_sums`] over the whole global batch.
        num_images (`torch.Tensor` or `int`): Images in the global batch, N.
        knots (`torch.Tensor` of shape `(T,)`): Frequencies.
        weights (`torch.Tensor` of shape `(T,)`): Quadrature weights including the window.

    Returns:
        `torch.Tensor` of shape `(V, M)`: about 1.05 on average for normal samples, whatever N.

    Source: arXiv 2511.08544, algorithm 1, with the window of its code, `exp(-t^2 / 2)`.
    """
    cos_mean, sin_mean = sums / num_images
    normal = torch.exp(-knots.square() / 2)
    return num_images * ((cos_mean - normal).square() + sin_mean.square()) @ weights


def closed_form(sample: torch.Tensor) -> torch.Tensor:
    """
    The same statistic with the integral over the whole line done exactly.

    Args:
        sample (`torch.Tensor` of shape `(N,)`): One slice.

    Returns:
        `torch.Tensor`: A scalar.
    """
    pairs = torch.exp(-(sample[:, None] - sample[None, :]).square() / 2).sum()
    singles = torch.exp(-sample.square() / 4).sum()
    n = len(sample)
    return math.sqrt(2 * math.pi) / n * pairs - 2 * math.sqrt(math.pi) * singles + n * math.sqrt(2 * math.pi / 3)
