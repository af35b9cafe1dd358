"""Both losses from sums over images that are reduced over ranks once."""

import torch

from ..system.distributed import sum_for_loss, sum_of_parts_for_loss
from .prediction import prediction_loss, squared_distances
from .sigreg import SIGReg, check_batch


def objective_sums(projections: torch.Tensor, num_global_views: int, sigreg: SIGReg, step: int) -> torch.Tensor:
    """
    The sums over images from which both losses are computed: number of images, squared distances, SIGReg's sums.

    They are 1-D and fp32. The sums of a batch are the sums of its parts added up, whether these are on other ranks or
    in other micro-batches. `sigreg` must use the Epps-Pulley statistic; see [`objective`] for the other arguments.
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
    Prediction loss and SIGReg over the batch of all ranks, with a single all-reduce: fp32 scalars, alike on all ranks.

    `projections` are `(V, B, K)`, this rank's images with global views first. `step` is the optimiser step, which
    fixes the directions. `batch_sums` are the [`objective_sums`] of a larger batch over all ranks and `num_parts`
    micro-batches that contains these images. The losses are then those of that batch, and ranks exchange nothing.
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
    return sums[1] / (num_images * num_views * dim), sigreg.from_sums(sums[2:], num_images, num_views)
