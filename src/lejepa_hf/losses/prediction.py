"""Prediction loss: distance of the projections of all views from the centre of their image."""

import torch

from ..system.distributed import sum_for_loss, world_size


def squared_distances(projections: torch.Tensor, num_global_views: int) -> torch.Tensor:
    """Sum over this rank's images of what [`prediction_loss`] averages, an fp32 scalar."""
    if projections.ndim != 3:
        raise ValueError(f"`projections` must be (views, images, dimensions), got shape {tuple(projections.shape)}.")
    if not 1 <= num_global_views <= len(projections):
        raise ValueError(f"`num_global_views` must be in [1, {len(projections)}], got {num_global_views}.")
    projections = projections.float()
    return (projections - projections[:num_global_views].mean(0)).square().sum()


def prediction_loss(projections: torch.Tensor, num_global_views: int) -> torch.Tensor:
    """
    Mean squared distance of all views from the mean of the global views of their image, an fp32 scalar.

    `projections` are `(num_views, batch_size, dim)` with `num_global_views` global views first; without local views
    those are all. The mean is over views, images of the global batch and dimensions, and the same on every rank. The
    gradient flows through both sides: there is no stop-gradient on the centre.

    Source: arXiv 2511.08544, equations 6-7 and algorithm 2; the mean over dimensions follows its algorithm.
    """
    distances = squared_distances(projections, num_global_views)
    num_views, batch_size, dim = projections.shape
    if world_size() == 1:  # nothing is exchanged, so that the number of images need not be on the device
        return distances / (num_views * batch_size * dim)
    total, num_images = sum_for_loss(torch.stack([distances, torch.full_like(distances, batch_size)]))
    return total / (num_images.detach() * num_views * dim)
