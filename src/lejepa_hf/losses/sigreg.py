"""SIGReg: pushes random slices of the projections towards N(0, 1)."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ..ops import dispatch, epps_pulley_reference
from ..ops.epps_pulley_eager import statistic_from_sums
from ..ops.epps_pulley_reference import Quadrature, Redraw, quadrature
from ..system.distributed import gather_for_loss, sum_for_loss, world_size
from .univariate_statistics import anderson_darling, cramer_von_mises, extended_jarque_bera, vcreg

# What the paper compares Epps-Pulley with: tests on distribution functions and on moments.
COMPARED_STATISTICS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    statistic.__name__: statistic for statistic in (anderson_darling, cramer_von_mises, extended_jarque_bera, vcreg)
}
_MASK = (1 << 64) - 1


def _mix(seed: int, step: int) -> int:
    """One 63-bit seed from two numbers (splitmix64), so that the seeds of neighbouring steps are unrelated."""
    state = (seed * 0x9E3779B97F4A7C15 + step + 0x9E3779B97F4A7C15) & _MASK
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
    return (state ^ (state >> 31)) >> 1


def draw_directions(
    dim: int, num_slices: int, seed: int, step: int | torch.Tensor, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """
    Random unit directions `(dim, num_slices)` in fp32, fixed by `(seed, step)` and the kind of device alone.

    They are the same on every rank, after a resume and for any number of ranks. A private generator on `device` draws
    them, so the global random state does not change.
    """
    if dim < 1 or num_slices < 1:
        raise ValueError(f"`dim` and `num_slices` must be at least 1, got {dim} and {num_slices}.")
    generator = torch.Generator(device=device).manual_seed(_mix(seed, int(step)))
    directions = torch.randn(dim, num_slices, generator=generator, device=device, dtype=torch.float32)
    return directions / directions.norm(dim=0, keepdim=True)


# Each step has other directions, so CUDA graphs replay what follows, not the drawing itself. Older PyTorch has no word
# for this, and makes no CUDA graph of a compiled step, because the number of the step is on the host.
_NOT_REPLAYED: dict[str, Any] = {"tags": (torch.Tag.cudagraph_unsafe,)} if "cudagraph_unsafe" in dir(torch.Tag) else {}


@torch.library.custom_op("lejepa_hf::draw_directions", mutates_args=(), **_NOT_REPLAYED)
def _draw_while_compiled(
    step: torch.Tensor, dim: int, num_slices: int, seed: int, device: torch.device
) -> torch.Tensor:
    """[`draw_directions`] as a node of a compiled graph, which cannot hold a generator."""
    return draw_directions(dim, num_slices, seed, step, device)


@_draw_while_compiled.register_fake
def _(step: torch.Tensor, dim: int, num_slices: int, seed: int, device: torch.device) -> torch.Tensor:
    return torch.empty(dim, num_slices, device=device)


def check_batch(batch_size: int) -> None:
    """Refuse fewer than two images in the batch of all ranks, assuming equal batches on all ranks."""
    if batch_size * world_size() < 2:
        raise ValueError(
            f"SIGReg compares the distribution of a batch with a normal one and needs at least 2 images, got "
            f"{batch_size}: raise the batch size."
        )


def _check_shapes(projections: torch.Tensor, directions: torch.Tensor) -> None:
    if projections.ndim != 3:
        raise ValueError(f"`projections` must be (views, images, dimensions), got shape {tuple(projections.shape)}.")
    dim = projections.shape[-1]
    if directions.ndim != 2 or directions.shape[0] != dim or directions.shape[1] < 1:
        shape = tuple(directions.shape)
        raise ValueError(f"`directions` must be ({dim}, slices) for {dim}-dimensional projections, got shape {shape}.")


def _deviation_sums(
    projections: torch.Tensor, directions: torch.Tensor, rule: Quadrature, backend: str, redraw: Redraw | None = None
) -> torch.Tensor:
    """[`~ops.epps_pulley_reference.deviation_sums`] of the chosen backend, in fp32."""
    _check_shapes(projections, directions)
    operator = dispatch.operators(backend, projections.device).deviation_sums
    # Autocast would run the matrix product in bf16, whatever the dtype of its inputs.
    with torch.autocast(projections.device.type, enabled=False):
        return operator(projections.float(), directions.float(), rule, redraw)


def epps_pulley(
    projections: torch.Tensor, directions: torch.Tensor, num_knots: int = 17, t_max: float = 3.0, backend: str = "auto"
) -> torch.Tensor:
    """
    Epps-Pulley normality statistic of every view along every direction, over the batch of all ranks.

    Args:
        projections (`torch.Tensor` of shape `(V, B, K)`): This rank's images, in any floating-point dtype; the
            statistic is computed in fp32.
        directions (`torch.Tensor` of shape `(K, M)`): Unit columns, the same on every rank.
        num_knots (`int`, *optional*, defaults to 17): Number of quadrature points on `[0, t_max]`, at least 2.
        t_max (`float`, *optional*, defaults to 3.0): Largest frequency, positive.
        backend (`str`, *optional*, defaults to `"auto"`): `"auto"`, `"reference"`, `"eager"` or `"triton"`, see
            [`~ops.dispatch.operators`].

    Returns:
        `torch.Tensor` of shape `(V, M)`: the statistic times the global batch size, fp32, the same on every rank.

    Raises:
        ValueError: If shapes do not fit, the global batch has fewer than two images, `num_knots` or `t_max` is out of
            range, or the backend cannot run.

    Source: arXiv 2511.08544, algorithm 1. Differs: one-sided knots on [0, 3] as in the paper's package.
    """
    _check_shapes(projections, directions)
    check_batch(projections.shape[1])
    rule = quadrature(num_knots, t_max, projections.device)
    sums, num_images = _over_ranks(_deviation_sums(projections, directions, rule, backend), projections.shape[1])
    return statistic_from_sums(sums, num_images, rule)


def _over_ranks(sums: torch.Tensor, batch_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums and number of images of the batch of all ranks. The number is made on the device: a copy would wait."""
    packed = sum_for_loss(torch.cat([sums.flatten(), sums.new_full((1,), batch_size)]))
    return packed[:-1].view_as(sums), packed[-1].detach()


class SIGReg(nn.Module):
    """
    Sketched isotropic Gaussian regularisation: the mean of [`epps_pulley`] over fresh random directions.

    It has neither parameters nor buffers: the value depends only on the arguments, the projections and the step. It
    works in any training loop of PyTorch and imports nothing else.

    Args:
        num_slices (`int`, *optional*, defaults to 1024): Number of random directions at each step, at least 1.
        num_knots (`int`, *optional*, defaults to 17): Number of quadrature points on `[0, t_max]`, at least 2.
        t_max (`float`, *optional*, defaults to 3.0): Largest frequency, positive.
        seed (`int`, *optional*, defaults to 0): Seed that fixes the directions together with the step.
        views (`str`, *optional*, defaults to `"per_view"`): `"per_view"` or `"pooled"`, see [`LeJEPAConfig`].
        statistic (`str`, *optional*, defaults to `"epps_pulley"`): `"epps_pulley"` or, for comparison,
            `"anderson_darling"`, `"cramer_von_mises"`, `"extended_jarque_bera"` or `"vcreg"`. These hold images x
            slices in memory, and with several ranks they gather all projections.
        backend (`str`, *optional*, defaults to `"auto"`): Implementation, see [`epps_pulley`]. Not used by
            `torch.compile`: a compiled graph contains the definition in plain PyTorch, which the compiler fuses.
        batch_first (`bool`, *optional*, defaults to `False`): What projections with three axes are: views of images,
            `(V, B, K)`, or with `True` sequences, `(B, T, K)`. Each of the V views or T positions is a sample of size
            B of its own, and the loss is the mean of their statistics. Two axes are `(B, K)` either way.

    Raises:
        ValueError: If a value is outside its range.

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
        self,
        num_slices: int = 1024,
        num_knots: int = 17,
        t_max: float = 3.0,
        seed: int = 0,
        views: str = "per_view",
        statistic: str = "epps_pulley",
        backend: str = "auto",
        batch_first: bool = False,
    ) -> None:
        super().__init__()
        if num_slices < 1:
            raise ValueError(f"`num_slices` must be at least 1, got {num_slices}.")
        if views not in ("per_view", "pooled"):
            raise ValueError(f"`views` must be per_view or pooled, got {views!r}.")
        if statistic != "epps_pulley" and statistic not in COMPARED_STATISTICS:
            known = ", ".join(("epps_pulley", *COMPARED_STATISTICS))
            raise ValueError(f"`statistic` must be one of {known}, got {statistic!r}.")
        quadrature(num_knots, t_max)  # checks both
        self.num_slices, self.num_knots, self.t_max, self.seed, self.views = num_slices, num_knots, t_max, seed, views
        self.statistic, self.backend, self.batch_first = statistic, backend, batch_first
        # A tensor, because a compiled graph would be compiled again for each value of a number. Not a buffer, because
        # the loss has no state that checkpoints would have to hold. The default device may be meta now.
        with torch.inference_mode(False):
            self._next_step = torch.zeros((), dtype=torch.int64, device="cpu")

    def extra_repr(self) -> str:
        """The settings, as `print(model)` shows them."""
        names = ("num_slices", "num_knots", "t_max", "views", "statistic", "batch_first")
        return ", ".join(f"{name}={vars(self)[name]}" for name in names)

    @property
    def null_mean(self) -> float | None:
        """Expected loss of normal projections for any batch size; None for pooled views and other statistics."""
        rule = self._closed_form_rule()
        return None if rule is None else (rule.weights * (1 - rule.normal.square())).sum().item()

    @property
    def collapsed_mean(self) -> float | None:
        """Loss per image of the batch if all projections are 0; None where `null_mean` is None."""
        rule = self._closed_form_rule()
        return None if rule is None else (rule.weights * (1 - rule.normal).square()).sum().item()

    def _closed_form_rule(self) -> Quadrature | None:
        # Pooled views are not an independent sample, and the formulas are those of Epps-Pulley.
        known = self.statistic == "epps_pulley" and self.views == "per_view"
        return quadrature(self.num_knots, self.t_max) if known else None

    def forward(self, projections: torch.Tensor, step: int | torch.Tensor | None = None) -> torch.Tensor:
        """
        Compute the loss over the batch of all ranks.

        Args:
            projections (`torch.Tensor` of shape `(B, K)`, `(V, B, K)` or, with `batch_first`, `(B, T, K)`): This
                rank's images or sequences. The B samples should be independent of each other.
            step (`int` or `torch.Tensor`, *optional*): Optimiser step, a number or a tensor with one integer, which
                fixes the directions; all ranks need the same one. If missing, this object counts its calls in
                training mode from 0. A run that has to repeat itself after a resume needs it.

        Returns:
            `torch.Tensor`: fp32 scalar, the same on every rank; about 1.05 if the projections follow N(0, I).

        Raises:
            ValueError: If projections have another number of axes, or the batch of all ranks has a single sample.
        """
        if projections.ndim not in (2, 3):
            raise ValueError(
                "`projections` must be (images, dimensions), (views, images, dimensions) or, with `batch_first`, "
                f"(sequences, positions, dimensions), got shape {tuple(projections.shape)}: flatten further axes."
            )
        if self.batch_first and projections.ndim == 3:
            projections = projections.transpose(0, 1)
        num_views = 1 if projections.ndim == 2 else len(projections)
        batch_size = projections.shape[-2]
        check_batch(batch_size)
        if step is None:
            step = self._next_step.clone()
            self._next_step += self.training
        if torch.compiler.is_compiling():
            return self._compilable(projections, step)
        if not self.needs_no_sums(projections.device):
            sums, num_images = _over_ranks(self.sums(projections, step), batch_size)
            return self.from_sums(sums, num_images, num_views)
        samples = self._samples(projections)
        directions = self._draw(samples, step)()
        with torch.autocast(samples.device.type, enabled=False):
            if self.statistic == "epps_pulley":
                rule = quadrature(self.num_knots, self.t_max, samples.device)
                operator = dispatch.operators(self.backend, samples.device).mean_statistic
                return operator(samples.float(), directions, rule)
            return COMPARED_STATISTICS[self.statistic](gather_for_loss(samples.float()) @ directions).mean()

    def _compilable(self, projections: torch.Tensor, step: int | torch.Tensor) -> torch.Tensor:
        """The loss in operations that `torch.compile` can trace, for projections with views first."""
        samples = self._samples(projections).float()
        step = step if isinstance(step, torch.Tensor) else torch.full((), step, dtype=torch.int64)
        directions = _draw_while_compiled(step, samples.shape[-1], self.num_slices, self.seed, samples.device)
        with torch.autocast(samples.device.type, enabled=False):
            if self.statistic != "epps_pulley":
                return COMPARED_STATISTICS[self.statistic](gather_for_loss(samples) @ directions).mean()
            # Without its cache, about which the compiler warns.
            rule = quadrature.__wrapped__(self.num_knots, self.t_max, samples.device)
            sums = epps_pulley_reference.deviation_sums(samples, directions, rule)
            sums, num_images = _over_ranks(sums, samples.shape[1])
            return epps_pulley_reference.statistic_from_sums(sums, num_images, rule).mean()

    def needs_no_sums(self, device: torch.device) -> bool:
        """Whether the loss is computed without sums: other statistics, and a faster operator for one process."""
        if self.statistic != "epps_pulley":
            return True
        return world_size() == 1 and dispatch.operators(self.backend, device).mean_statistic is not None

    def sums(self, projections: torch.Tensor, step: int | torch.Tensor) -> torch.Tensor:
        """
        The sums over this rank's images from which the loss is computed, to be added up over ranks and micro-batches.

        `projections` are `(B, K)` or `(V, B, K)`, with `batch_first` as well. The sums are fp32, of shape
        `(2, V, num_slices, num_knots)`, with V = 1 if views are pooled.
        """
        samples = self._samples(projections)
        draw = self._draw(samples, step)
        rule = quadrature(self.num_knots, self.t_max, samples.device)
        return _deviation_sums(samples, draw(), rule, self.backend, redraw=draw)

    def from_sums(self, sums: torch.Tensor, num_images: torch.Tensor, num_views: int) -> torch.Tensor:
        """The loss from [`sums`], in any shape, of the batch of all ranks and micro-batches; an fp32 scalar."""
        samples_per_image = num_views if self.views == "pooled" else 1
        rule = quadrature(self.num_knots, self.t_max, sums.device)
        sums = sums.view(2, num_views // samples_per_image, self.num_slices, self.num_knots)
        return statistic_from_sums(sums, num_images * samples_per_image, rule).mean()

    def _samples(self, projections: torch.Tensor) -> torch.Tensor:
        """The samples to compare with N(0, I), `(V, B, K)`."""
        if projections.ndim == 2 or self.views == "pooled":
            return projections.reshape(1, -1, projections.shape[-1])
        return projections

    def _draw(self, samples: torch.Tensor, step: int | torch.Tensor) -> Redraw:
        """Draws the directions of a step. Drawing them twice costs less than keeping them for backward."""
        dim, device = samples.shape[-1], samples.device
        return lambda: draw_directions(dim, self.num_slices, self.seed, step, device)
