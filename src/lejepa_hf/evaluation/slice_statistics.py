"""Single slices of a sample: the least Gaussian ones, and the quantiles of all."""

from dataclasses import dataclass

import torch

_WORST_SLICES = 5
_RESOLUTION = torch.finfo(torch.float32).eps


@dataclass(frozen=True, eq=False)
class SliceStatistics:
    """
    One slice of one view.

    Args:
        statistic (`float`): Epps-Pulley statistic, 0.402 times the number of images if they all are 0.
        view (`int`): Number of the view.
        direction (`torch.Tensor` of shape `(dim,)`): Unit vector of the slice.
        sample (`torch.Tensor` of shape `(num_images,)`): Values of the slice, fp32.
        mean (`float`): Mean of the sample; 0 for a standard normal distribution.
        std (`float`): Standard deviation of the sample; 1 for a standard normal distribution.
        skewness (`float`): Third standardised moment; 0 for a Gaussian, and if all images are the same.
        excess_kurtosis (`float`): Fourth standardised moment minus 3; 0 for a Gaussian, -2 for two points of equal
            weight, and 0 if all images are the same.
    """

    statistic: float
    view: int
    direction: torch.Tensor
    sample: torch.Tensor
    mean: float
    std: float
    skewness: float
    excess_kurtosis: float


def worst_slices(
    samples: torch.Tensor, directions: torch.Tensor, statistics: torch.Tensor
) -> tuple[SliceStatistics, ...]:
    """
    Describe the directions with the largest statistic, each in the view where it is largest: a direction that is bad
    in one view is bad in all of them.

    Args:
        samples (`torch.Tensor` of shape `(num_views, num_images, dim)`): Samples, fp32.
        directions (`torch.Tensor` of shape `(dim, num_slices)`): Unit columns.
        statistics (`torch.Tensor` of shape `(num_views, num_slices)`): Epps-Pulley statistics.

    Returns:
        `tuple[SliceStatistics, ...]`: At most 5, in descending order.
    """
    largest, views = statistics.max(0)
    worst = largest.topk(min(_WORST_SLICES, len(largest))).indices.tolist()
    return tuple(_describe(samples, directions[:, k], largest[k].item(), int(views[k])) for k in worst)


def _describe(samples: torch.Tensor, direction: torch.Tensor, statistic: float, view: int) -> SliceStatistics:
    sample = samples[view].double() @ direction.double()
    std = sample.std(correction=0)
    constant = std <= _RESOLUTION * sample.abs().max()
    normed = torch.zeros_like(sample) if constant else (sample - sample.mean()) / std
    return SliceStatistics(
        statistic=statistic,
        view=view,
        direction=direction.clone(),
        sample=sample.float(),
        mean=sample.mean().item(),
        std=std.item(),
        skewness=normed.pow(3).mean().item(),
        excess_kurtosis=0.0 if constant else normed.pow(4).mean().item() - 3,
    )


def quantile_band(samples: torch.Tensor, directions: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    """
    Quantiles of slices, and their spread from slice to slice.

    Args:
        samples (`torch.Tensor` of shape `(num_views, num_images, dim)`): Samples, fp32.
        directions (`torch.Tensor` of shape `(dim, num_slices)`): Unit columns.
        levels (`torch.Tensor` of shape `(num_levels,)`): Levels in (0, 1), ascending.

    Returns:
        `torch.Tensor` of shape `(3, num_levels)`: 5 %, 50 % and 95 % quantiles over slices of all views.
    """
    positions = (levels * samples.shape[1]).long()
    quantiles = [
        (samples @ part).sort(1).values[:, positions].transpose(1, 2).flatten(0, 1)
        for part in directions.split(16, dim=1)  # 16 slices, since sorting needs several times their memory
    ]
    return torch.cat(quantiles).quantile(torch.tensor([0.05, 0.5, 0.95]), dim=0)
