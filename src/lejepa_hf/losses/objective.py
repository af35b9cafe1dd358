"""Both losses from sums over images that are reduced over ranks once."""

import torch

from ..system.distributed import sum_for_loss, sum_of_parts_for_loss
from .prediction import prediction_from_sum, prediction_loss, squared_distances
from .sigreg import SIGReg, check_batch


def objective_sums(projections: torch.Tensor, num_global_views: int, sigreg: SIGReg, step: int) -> torch.Tensor:
    """
    The sums over images from which both losses are computed.

    The sums of a batch are the sums of its parts added up, whether these are on other ranks or in other micro-batches.

    Args:
        projections (`torch.Tensor` of shape `(V, B, K)`): Global views first.
        num_global_views (`int`): Number of views whose mean is the centre.
        sigreg ([`SIGReg`]): SIGReg with the Epps-Pulley statistic.
        step (`int`): Optimiser step, which fixes the directions.

    Returns:
        `torch.Tensor`: 1-D, fp32: number of images, squared distances, SIGReg's sums.
    """
    distances = squared_distances(projections, num_global_views)
    count = torch.full_like(distances, projections.shape[1])
    return torch.cat([torch.stack([count, distances]), sigreg.sums(projections, step).flatten()])


def objective(
    projections: torch.Tensor,
    num_global_views: int,
    sigreg: SIGReg,
    step: int,
    batch_sums: torch.Tensor | None = None,
    num_parts: int = 1,
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Prediction loss and SIGReg over the batch of all ranks, with a single all-reduce.

    Args:
        projections (`torch.Tensor` of shape `(V, B, K)`): This rank's images, global views first.
        num_global_views (`int`): Number of views whose mean is the centre.
        sigreg ([`SIGReg`]): SIGReg; its statistic decides what ranks exchange.
        step (`int`): Optimiser step, which fixes the directions.
        batch_sums (`torch.Tensor`, *optional*): [`objective_sums`] of a larger batch over all ranks and micro-batches
            that contains these images. The losses are then those of that batch, and ranks exchange nothing.
        num_parts (`int`, *optional*, defaults to 1): Number of micro-batches in that batch.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: Prediction loss and SIGReg, fp32 scalars, the same on every rank.

    Raises:
        ValueError: If shapes do not fit, the batch has fewer than two images, or `batch_sums` is given for a statistic
            that cannot be computed from sums.
    """
    if batch_sums is None and sigreg.needs_no_sums(projections.device):
        return prediction_loss(projections, num_global_views), sigreg(projections, step)
    if sigreg.statistic != "epps_pulley":
        raise ValueError(
            f"`statistic` {sigreg.statistic!r} cannot be computed from sums over images: use 'epps_pulley' or "
            "projections of the complete batch."
        )
    sums = objective_sums(projections, num_global_views, sigreg, step)
    if batch_sums is None:
        check_batch(projections.shape[1])
        sums = sum_for_loss(sums)
    else:
        sums = sum_of_parts_for_loss(sums, batch_sums, num_parts)
    num_views, _, dim = projections.shape
    num_images = sums[0].detach()
    return (
        prediction_from_sum(sums[1], num_images, num_views, dim),
        sigreg.from_sums(sums[2:], num_images, num_views),
    )
