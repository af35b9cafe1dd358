"""Single slices of a sample: the least Gaussian ones, and the quantiles of all."""

from dataclasses import dataclass

import torch

_WORST_SLICES = 5
_RESOLUTION = torch.finfo(torch.float32).eps


@dataclass(frozen=True, eq=False)
class SliceStatistics:
    """One slice of one view; skewness and excess kurtosis are 0 for a Gaussian, and if all images are the same."""

    statistic: float  # of Epps and Pulley, 0.402 times the number of images if they all are 0
    view: int
    direction: torch.Tensor  # (dim,), of length 1
    sample: torch.Tensor  # (num_images,), fp32
    mean: float
    std: float
    skewness: float
    excess_kurtosis: float  # -2 for two points of equal weight


def worst_slices(
    samples: torch.Tensor, directions: torch.Tensor, statistics: torch.Tensor
) -> tuple[SliceStatistics, ...]:
    """
    At most 5 directions with the largest statistic, in descending order, each in the view where it is largest: a
    direction that is bad in one view is bad in all of them. Samples are of shape (views, images, dim), directions of
    shape (dim, slices), Epps-Pulley statistics of shape (views, slices).
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
    Sample quantiles at these levels in (0, 1), and their spread: the 5 %, 50 % and 95 % quantiles over slices of all
    views, of shape (3, levels). Samples and directions are those of [`worst_slices`].
    """
    positions = (levels * samples.shape[1]).long()
    quantiles = [
        (samples @ part).sort(1).values[:, positions].transpose(1, 2).flatten(0, 1)
        for part in directions.split(16, dim=1)  # 16 slices, since sorting needs several times their memory
    ]
    return torch.cat(quantiles).quantile(torch.tensor([0.05, 0.5, 0.95]), dim=0)
