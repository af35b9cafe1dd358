"""How Gaussian a sample is: SIGReg beside its null distribution, the worst slices, the covariance spectrum."""

from dataclasses import dataclass

import torch

from ..losses.sigreg import draw_directions, epps_pulley
from ..system.distributed import world_size
from .rank import entropy_rank, mean_and_spectrum

_NULL_REPLICATES = 32
_NULL_IMAGES = 1024  # from there on the statistic's distribution hardly depends on the number of images
_WORST_SLICES = 5
_RANDOM_SLICES = 3
_BAND_SLICES = 128  # of each view: enough for 5% and 95% of them, however many are tested
_BAND_LEVELS = 200
_RESOLUTION = torch.finfo(torch.float32).eps


@dataclass(frozen=True, eq=False)
class SliceStatistics:
    """
    One slice of one view.

    Args:
        statistic (`float`): Epps-Pulley statistic, 0.402 times the number of images where they all are 0.
        view (`int`): Number of the view.
        direction (`torch.Tensor` of shape `(dim,)`): Unit vector of the slice.
        sample (`torch.Tensor` of shape `(num_images,)`): The slice, fp32.
        mean (`float`): Of the sample; 0 for a Gaussian.
        std (`float`): Of the sample; 1 for a Gaussian.
        skewness (`float`): Third standardised moment; 0 for a Gaussian, and where all images are the same.
        excess_kurtosis (`float`): Fourth standardised moment less 3; 0 for a Gaussian, -2 for two points of equal
            weight, and 0 where all images are the same.
    """

    statistic: float
    view: int
    direction: torch.Tensor
    sample: torch.Tensor
    mean: float
    std: float
    skewness: float
    excess_kurtosis: float


@dataclass(frozen=True, eq=False)
class EmbeddingStatistics:
    """
    What [`embedding_statistics`] found.

    Args:
        num_images (`int`): Images of each view, N.
        sigreg (`tuple[float, ...]`): Mean statistic over slices, of each view.
        null_mean (`float`): The same for standard normal samples of this size, dimension and directions.
        null_std (`float`): Standard deviation of that from sample to sample.
        worst_slices (`tuple[SliceStatistics, ...]`): The directions with the largest statistic, each with the view
            where it is largest, in descending order.
        random_slices (`torch.Tensor` of shape `(num_shown, num_images)`): A few slices of the first view.
        quantile_levels (`torch.Tensor` of shape `(num_levels,)`): In (0, 1), ascending.
        quantile_band (`torch.Tensor` of shape `(3, num_levels)`): Sample quantiles at these levels: their 5%, 50% and
            95% quantiles over slices of all views.
        mean_norm (`float`): Length of the mean over images and views; 0 for a centred sample.
        eigenvalues (`torch.Tensor` of shape `(dim,)`): Of the covariance over images and views, descending; all 1 for
            a standard normal distribution.
    """

    num_images: int
    sigreg: tuple[float, ...]
    null_mean: float
    null_std: float
    worst_slices: tuple[SliceStatistics, ...]
    random_slices: torch.Tensor
    quantile_levels: torch.Tensor
    quantile_band: torch.Tensor
    mean_norm: float
    eigenvalues: torch.Tensor

    @property
    def z_scores(self) -> tuple[float, ...]:
        """How many null standard deviations each view is above the null mean."""
        return tuple((value - self.null_mean) / self.null_std for value in self.sigreg)

    @property
    def effective_rank(self) -> float:
        """
        Exponential of the entropy of the normalised eigenvalues: K for an isotropic sample, 1 for a line, 0 where all
        images are the same.

        Source: Roy and Vetterli 2007. Differs: eigenvalues of the covariance, not singular values, which
        [`~evaluation.rank.rank_and_spread`] takes.
        """
        return entropy_rank(self.eigenvalues)

    @property
    def top_eigenvalue_share(self) -> float:
        """Share of the variance along the first principal axis, in [0, 1]; 0 where there is no variance."""
        total = self.eigenvalues.sum().item()
        return self.eigenvalues[0].item() / total if total > 0 else 0.0

    def metrics(self) -> dict[str, float]:
        """The numbers worth keeping, by name."""
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
    samples: torch.Tensor,
    num_slices: int = 1024,
    num_knots: int = 17,
    t_max: float = 3.0,
    seed: int = 0,
) -> EmbeddingStatistics:
    """
    How far projections, or the embeddings of any encoder, are from a standard normal distribution.

    Computed on the host, so that the numbers do not depend on the device; the global random state is not touched.

    Args:
        samples (`torch.Tensor` of shape `(num_views, num_images, dim)` or `(num_images, dim)`): At least 2 images.
        num_slices (`int`, *optional*, defaults to 1024): Random directions, at least 1.
        num_knots (`int`, *optional*, defaults to 17): See [`~losses.sigreg.epps_pulley`].
        t_max (`float`, *optional*, defaults to 3.0): See [`~losses.sigreg.epps_pulley`].
        seed (`int`, *optional*, defaults to 0): Of the directions and of the null distribution.

    Returns:
        [`EmbeddingStatistics`]

    Raises:
        ValueError: If the shape does not fit, there are fewer than 2 images, or a value is NaN or infinite.
        RuntimeError: If several processes form a group: SIGReg would wait for the others.

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
        worst_slices=_worst_slices(samples, directions, statistics),
        random_slices=(samples[0] @ directions[:, :_RANDOM_SLICES]).T,
        quantile_levels=levels,
        quantile_band=_quantile_band(samples, directions[:, :_BAND_SLICES], levels),
        mean_norm=mean.norm().item(),
        eigenvalues=eigenvalues,
    )


def _checked(samples: torch.Tensor) -> torch.Tensor:
    """(V, N, K), fp32, on the host."""
    if samples.ndim not in (2, 3) or 0 in samples.shape:
        raise ValueError(
            f"`samples` must be (views, images, dimensions) or (images, dimensions), got shape {tuple(samples.shape)}."
        )
    if samples.shape[-2] < 2:
        raise ValueError(f"`samples` must hold at least 2 images, got {samples.shape[-2]}: a distribution is tested.")
    samples = samples.detach().float().cpu()
    broken = samples[~samples.isfinite()]
    if len(broken):
        found = ", ".join(sorted({str(value) for value in broken[:1000].tolist()}))
        raise ValueError(f"`samples` must be finite, got {found} in {len(broken)} of {samples.numel()} values.")
    if world_size() > 1:
        raise RuntimeError(
            f"The statistics are of one process, but {world_size()} form a group and SIGReg would wait for the "
            "others: call `accelerator.end_training()` first."
        )
    return samples if samples.ndim == 3 else samples[None]


def _null_distribution(
    num_images: int, directions: torch.Tensor, num_knots: int, t_max: float, seed: int
) -> torch.Tensor:
    """SIGReg of standard normal samples along the same directions: slices of one sample are not independent."""
    generator = torch.Generator().manual_seed(seed)
    shape = (1, min(num_images, _NULL_IMAGES), len(directions))
    replicates = (torch.randn(shape, generator=generator) for _ in range(_NULL_REPLICATES))
    return torch.stack([epps_pulley(sample, directions, num_knots, t_max).mean() for sample in replicates])


def _worst_slices(
    samples: torch.Tensor, directions: torch.Tensor, statistics: torch.Tensor
) -> tuple[SliceStatistics, ...]:
    # One entry a direction: a direction that is bad in one view is bad in all of them.
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


def _quantile_band(samples: torch.Tensor, directions: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    positions = (levels * samples.shape[1]).long()
    quantiles = [
        (samples @ part).sort(1).values[:, positions].transpose(1, 2).flatten(0, 1)
        for part in directions.split(16, dim=1)  # 16 slices: sorting needs several times their memory
    ]
    return torch.cat(quantiles).quantile(torch.tensor([0.05, 0.5, 0.95]), dim=0)


def format_statistics(statistics: EmbeddingStatistics) -> str:
    """
    Three small tables in plain text: views, spectrum, worst slices.

    Args:
        statistics ([`EmbeddingStatistics`]): From [`embedding_statistics`].

    Returns:
        `str`: Lines without a final newline.
    """
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
