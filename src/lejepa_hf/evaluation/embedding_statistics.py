"""embedding_statistics: how Gaussian a sample is, by SIGReg and its null distribution, slices and the spectrum."""

from dataclasses import dataclass

import torch

from ..losses.sigreg import draw_directions, epps_pulley
from ..system.distributed import world_size
from .rank import entropy_rank, mean_and_spectrum

_NULL_REPLICATES = 32
_NULL_IMAGES = 1024  # with more images the statistic's distribution hardly changes
_RANDOM_SLICES = 3
_BAND_SLICES = 128  # of each view, enough for their 5 % and 95 % quantiles
_BAND_LEVELS = 200
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


@dataclass(frozen=True, eq=False)
class EmbeddingStatistics:
    """
    The result of [`embedding_statistics`]. The null distribution is that of the mean statistic of standard normal
    samples of this size along the same directions.
    """

    num_images: int  # of each view
    sigreg: tuple[float, ...]  # mean statistic over the slices of each view
    null_mean: float
    null_std: float
    worst_slices: tuple[SliceStatistics, ...]  # see `worst_slices`
    random_slices: torch.Tensor  # (num_shown, num_images), a few slices of the first view
    quantile_levels: torch.Tensor  # (num_levels,), in (0, 1), ascending
    quantile_band: torch.Tensor  # (3, num_levels), see `quantile_band`
    mean_norm: float  # length of the mean over images and views
    eigenvalues: torch.Tensor  # (dim,), of the covariance over images and views, descending

    @property
    def z_scores(self) -> tuple[float, ...]:
        """The distance of each view from the null mean, in null standard deviations."""
        return tuple((value - self.null_mean) / self.null_std for value in self.sigreg)

    @property
    def effective_rank(self) -> float:
        """
        Exponential of the entropy of the normalised eigenvalues: K for an isotropic sample, 1 for a line, 0 if all
        images are the same.

        Source: Roy and Vetterli 2007. Differs: eigenvalues of the covariance; [`~evaluation.rank.rank_and_spread`]
        uses singular values as they do.
        """
        return entropy_rank(self.eigenvalues)

    @property
    def top_eigenvalue_share(self) -> float:
        """Share of the variance along the first principal axis, in [0, 1]; 0 without any variance."""
        total = self.eigenvalues.sum().item()
        return self.eigenvalues[0].item() / total if total > 0 else 0.0

    def metrics(self) -> dict[str, float]:
        """The numbers for `statistics.json`, by name."""
        return {
            "effective_rank": self.effective_rank,
            "top_eigenvalue_share": self.top_eigenvalue_share,
            "mean_norm": self.mean_norm,
            **{f"sigreg_view{view}": value for view, value in enumerate(self.sigreg)},
            "sigreg_null_mean": self.null_mean,
            "sigreg_null_std": self.null_std,
            "sigreg_z": max(self.z_scores),
            "worst_slice": self.worst_slices[0].statistic,
        }


def embedding_statistics(
    samples: torch.Tensor, num_slices: int = 1024, num_knots: int = 17, t_max: float = 3.0, seed: int = 0
) -> EmbeddingStatistics:
    """
    Measure how far projections, or the embeddings of any encoder, are from a standard normal distribution.

    Everything is computed on the host, so that the numbers do not depend on the device, and the global random state is
    not touched.

    Args:
        samples (`torch.Tensor` of shape `(num_views, num_images, dim)` or `(num_images, dim)`): Samples of at least 2
            images.
        num_slices (`int`, *optional*, defaults to 1024): Number of random directions, at least 1.
        num_knots (`int`, *optional*, defaults to 17): Number of knots, see [`~losses.sigreg.epps_pulley`].
        t_max (`float`, *optional*, defaults to 3.0): Largest knot.
        seed (`int`, *optional*, defaults to 0): Seed of the directions and of the null distribution.

    Raises:
        ValueError: If the shape is wrong, there are fewer than 2 images, or a value is NaN or infinite.
        RuntimeError: In a group of several processes, where SIGReg would wait for the others.

    Example:

    ```python
    >>> import torch
    >>> from lejepa_hf.evaluation.embedding_statistics import embedding_statistics

    >>> normal = torch.randn(512, 16, generator=torch.Generator().manual_seed(0))
    >>> round(embedding_statistics(normal * torch.tensor([3.0] + 15 * [0.01])).effective_rank, 2)
    1.0
    ```
    """
    samples = _checked(samples)
    num_images, dim = samples.shape[1:]
    directions = draw_directions(dim, num_slices, seed, step=0)
    statistics = epps_pulley(samples, directions, num_knots, t_max)
    null = _null_distribution(num_images, directions, num_knots, t_max, seed)
    mean, eigenvalues = mean_and_spectrum(samples.flatten(0, 1))
    levels = (torch.arange(min(num_images, _BAND_LEVELS)) + 0.5) / min(num_images, _BAND_LEVELS)
    return EmbeddingStatistics(
        num_images=num_images,
        sigreg=tuple(statistics.mean(1).tolist()),
        null_mean=null.mean().item(),
        null_std=null.std().item(),
        worst_slices=worst_slices(samples, directions, statistics),
        random_slices=(samples[0] @ directions[:, :_RANDOM_SLICES]).T,
        quantile_levels=levels,
        quantile_band=quantile_band(samples, directions[:, :_BAND_SLICES], levels),
        mean_norm=mean.norm().item(),
        eigenvalues=eigenvalues,
    )


def _checked(samples: torch.Tensor) -> torch.Tensor:
    """Samples of shape (V, N, K), fp32, on the host."""
    if samples.ndim not in (2, 3) or 0 in samples.shape:
        raise ValueError(
            f"`samples` must be (views, images, dimensions) or (images, dimensions), got shape {tuple(samples.shape)}."
        )
    if samples.shape[-2] < 2:
        raise ValueError(f"`samples` must hold at least 2 images, got {samples.shape[-2]}: give more of them.")
    samples = samples.detach().float().cpu()
    broken = samples[~samples.isfinite()]
    if len(broken):
        found = ", ".join(sorted({str(value) for value in broken[:1000].tolist()}))
        raise ValueError(f"`samples` must be finite, got {found} in {len(broken)} of {samples.numel()} values.")
    if world_size() > 1:
        raise RuntimeError(
            f"The statistics are computed in one process, but {world_size()} form a group and SIGReg would wait for "
            "the others: call `accelerator.end_training()` first."
        )
    return samples if samples.ndim == 3 else samples[None]


def _null_distribution(
    num_images: int, directions: torch.Tensor, num_knots: int, t_max: float, seed: int
) -> torch.Tensor:
    """SIGReg of standard normal samples along the same directions, since slices of one sample are not independent."""
    generator = torch.Generator().manual_seed(seed)
    shape = (1, min(num_images, _NULL_IMAGES), len(directions))
    replicates = (torch.randn(shape, generator=generator) for _ in range(_NULL_REPLICATES))
    return torch.stack([epps_pulley(sample, directions, num_knots, t_max).mean() for sample in replicates])


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


def format_statistics(statistics: EmbeddingStatistics) -> str:
    """Format statistics as three small tables in plain text: views, spectrum, worst slices."""
    lines = [f"{'view':>6} {'SIGReg':>10} {'z':>10}"]
    for view, (value, z) in enumerate(zip(statistics.sigreg, statistics.z_scores, strict=True)):
        lines.append(f"{view:>6} {value:>10.3f} {z:>10.1f}")
    lines += [
        f"normal {statistics.null_mean:>10.3f} ± {statistics.null_std:.3f} for {statistics.num_images} images",
        "",
        f"effective rank {statistics.effective_rank:.1f} of {len(statistics.eigenvalues)}, "
        f"largest eigenvalue {100 * statistics.top_eigenvalue_share:.1f}% of the variance, "
        f"norm of the mean {statistics.mean_norm:.3f}",
        "",
        f"{'worst slices':>12} {'view':>6} {'mean':>8} {'std':>8} {'skewness':>10} {'excess kurtosis':>16}",
    ]
    lines += [
        f"{worst.statistic:>12.3f} {worst.view:>6} {worst.mean:>8.3f} {worst.std:>8.3f} {worst.skewness:>10.2f} "
        f"{worst.excess_kurtosis:>16.2f}"
        for worst in statistics.worst_slices
    ]
    return "\n".join(lines)
