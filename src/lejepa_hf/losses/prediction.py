"""Distance of every view's projection from its image's centre."""

import torch

from ..system.distributed import sum_for_loss


def squared_distances(projections: torch.Tensor, num_global_views: int) -> torch.Tensor:
    """
    Squared distances of all views from the mean of their image's global views, summed over everything.

    Args:
        projections (`torch.Tensor` of shape `(num_views, batch_size, dim)`): Global views first.
        num_global_views (`int`): How many of the views make the centre; all of them when there are no local views.

    Returns:
        `torch.Tensor`: fp32 scalar, of this rank's images.

    Raises:
        ValueError: If `projections` is not 3-D or `num_global_views` is not in `[1, num_views]`.
    """
    if projections.ndim != 3:
        raise ValueError(f"`projections` must be (views, images, dimensions), got shape {tuple(projections.shape)}.")
    if not 1 <= num_global_views <= len(projections):
        raise ValueError(f"`num_global_views` must be in [1, {len(projections)}], got {num_global_views}.")
    projections = projections.float()
    return (projections - projections[:num_global_views].mean(0)).square().sum()


def prediction_from_sum(total: torch.Tensor, num_images: torch.Tensor, num_views: int, dim: int) -> torch.Tensor:
    """The mean of which `total` is the sum: over views, `num_images` of the global batch and dimensions."""
    return total / (num_images * num_views * dim)


def prediction_loss(projections: torch.Tensor, num_global_views: int) -> torch.Tensor:
    """
    Mean squared distance of all views from the mean of the image's global views.

    The mean runs over views, images of the global batch and dimensions. Gradient flows through both sides: there is
    no stop-gradient on the centre.

    Args:
        projections (`torch.Tensor` of shape `(num_views, batch_size, dim)`): Global views first.
        num_global_views (`int`): How many of the views make the centre; all of them when there are no local views.

    Returns:
        `torch.Tensor`: fp32 scalar, the same on every rank.

    Raises:
        ValueError: If `projections` is not 3-D or `num_global_views` is not in `[1, num_views]`.

    Source: arXiv 2511.08544, equations 6-7 and algorithm 2; the mean over dimensions follows its algorithm.
    """
    distances = squared_distances(projections, num_global_views)
    num_views, batch_size, dim = projections.shape
    total, num_images = sum_for_loss(torch.stack([distances, torch.full_like(distances, batch_size)]))
    return prediction_from_sum(total, num_images.detach(), num_views, dim)
