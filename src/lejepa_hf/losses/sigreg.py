"""SIGReg: random slices of the projections are pushed towards N(0, 1)."""

import torch
from torch import nn

from ..distributed import sum_for_loss, world_size
from ..ops import dispatch
from ..ops.epps_pulley_reference import quadrature, statistic_from_sums

_MASK = (1 << 64) - 1


def _mix(seed: int, step: int) -> int:
    """One 63-bit seed from two numbers (splitmix64), so that neighbouring steps share nothing."""
    state = (seed * 0x9E3779B97F4A7C15 + step + 0x9E3779B97F4A7C15) & _MASK
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
    return (state ^ (state >> 31)) >> 1


def draw_directions(
    dim: int, num_slices: int, seed: int, step: int, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """
    Random unit directions, fixed by `(seed, step)` alone: the same on every rank, after a resume, for any rank count.

    Args:
        dim (`int`): Dimension of the projections, K.
        num_slices (`int`): Number of directions, M, at least 1.
        seed (`int`): Seed of the run.
        step (`int`): Optimiser step.
        device (`torch.device` or `str`, *optional*, defaults to `"cpu"`): Drawn there by a private generator; the
            global one is untouched. Different kinds of device give different draws.

    Returns:
        `torch.Tensor` of shape `(dim, num_slices)`: unit columns, fp32.

    Raises:
        ValueError: If `dim` or `num_slices` is below 1.
    """
    if dim < 1 or num_slices < 1:
        raise ValueError(f"`dim` and `num_slices` must be at least 1, got {dim} and {num_slices}.")
    generator = torch.Generator(device=device).manual_seed(_mix(seed, step))
    directions = torch.randn(dim, num_slices, generator=generator, device=device, dtype=torch.float32)
    return directions / directions.norm(dim=0, keepdim=True)


def epps_pulley(
    projections: torch.Tensor,
    directions: torch.Tensor,
    num_knots: int = 17,
    t_max: float = 3.0,
    backend: str = "auto",
) -> torch.Tensor:
    """
    Epps-Pulley normality statistic of every view along every direction, over the batch of all ranks.

    Args:
        projections (`torch.Tensor` of shape `(V, B, K)`): This rank's images; computed in fp32 whatever comes in.
        directions (`torch.Tensor` of shape `(K, M)`): Unit columns, the same on every rank.
        num_knots (`int`, *optional*, defaults to 17): Quadrature points on `[0, t_max]`, at least 2.
        t_max (`float`, *optional*, defaults to 3.0): Largest frequency, positive.
        backend (`str`, *optional*, defaults to `"auto"`): See [`~ops.dispatch.characteristic_sums`].

    Returns:
        `torch.Tensor` of shape `(V, M)`: the statistic times the global batch size, fp32, the same on every rank.

    Raises:
        ValueError: If shapes do not fit, the global batch has fewer than two images, or the quadrature is void.

    Source: arXiv 2511.08544, algorithm 1. Differs: one-sided knots on [0, 3] as in its package.
    """
    if projections.ndim != 3:
        raise ValueError(f"`projections` must be (views, images, dimensions), got shape {tuple(projections.shape)}.")
    if directions.ndim != 2 or directions.shape[0] != projections.shape[-1] or directions.shape[1] < 1:
        raise ValueError(
            f"`directions` must be ({projections.shape[-1]}, slices) for projections of {projections.shape[-1]} "
            f"dimensions, got shape {tuple(directions.shape)}."
        )
    batch_size = projections.shape[1]
    if batch_size * world_size() < 2:
        raise ValueError(
            f"SIGReg compares the distribution of a batch with a normal one and needs at least 2 images, got "
            f"{batch_size}: raise the batch size."
        )
    knots, weights = quadrature(num_knots, t_max, projections.device)
    # Autocast would run the matrix product in bf16, whatever the dtype of its inputs.
    with torch.autocast(projections.device.type, enabled=False):
        sums = dispatch.characteristic_sums(backend)(projections.float(), directions.float(), knots)
        packed = sum_for_loss(torch.cat([sums.flatten(), sums.new_tensor([batch_size])]))
        return statistic_from_sums(packed[:-1].view_as(sums), packed[-1].detach(), knots, weights)


class SIGReg(nn.Module):
    """
    Sketched isotropic Gaussian regularisation: the mean of [`epps_pulley`] over fresh random directions.

    Has neither parameters nor buffers: everything follows from the arguments and the step.

    Args:
        num_slices (`int`, *optional*, defaults to 1024): Directions drawn at each step.
        num_knots (`int`, *optional*, defaults to 17): Quadrature points on `[0, t_max]`, at least 2.
        t_max (`float`, *optional*, defaults to 3.0): Largest frequency.
        seed (`int`, *optional*, defaults to 0): With the step it fixes the directions.
        views (`str`, *optional*, defaults to `"per_view"`): `"per_view"` or `"pooled"`, see [`LeJEPAConfig`].

    Example:

    ```python
    >>> import torch
    >>> from lejepa_hf import SIGReg

    >>> normal = torch.randn(8, 512, 64, generator=torch.Generator().manual_seed(0))
    >>> round(SIGReg()(normal, step=0).item(), 1)
    1.1
    ```
    """

    def __init__(
        self, num_slices: int = 1024, num_knots: int = 17, t_max: float = 3.0, seed: int = 0, views: str = "per_view"
    ):
        super().__init__()
        self.num_slices, self.num_knots, self.t_max, self.seed, self.views = num_slices, num_knots, t_max, seed, views

    def extra_repr(self) -> str:
        return f"num_slices={self.num_slices}, num_knots={self.num_knots}, t_max={self.t_max}, views={self.views}"

    def forward(self, projections: torch.Tensor, step: int) -> torch.Tensor:
        """
        Args:
            projections (`torch.Tensor` of shape `(V, B, K)` or `(B, K)`): This rank's images.
            step (`int`): Optimiser step, a host integer.

        Returns:
            `torch.Tensor`: fp32 scalar, the same on every rank; about 1.05 where all projections are N(0, I).
        """
        if projections.ndim == 2 or self.views == "pooled":
            projections = projections.reshape(1, -1, projections.shape[-1])
        directions = draw_directions(projections.shape[-1], self.num_slices, self.seed, step, projections.device)
        return epps_pulley(projections, directions, self.num_knots, self.t_max).mean()
