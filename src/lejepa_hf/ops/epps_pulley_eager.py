"""
Deviation sums on any device at about the cost of the projection, without holding images x slices in memory.

V views, B images, K projection dimensions, M slices, T knots. The knots are multiples of one spacing, so with
`z = exp(i * spacing * x)` the required sums are those of the powers z^k, k < T. Every exponent is the sum of a small
one, `|a| <= inner`, and a multiple of `stride = 2 * inner + 1`. Only cos and sin of these few are evaluated; the sums
of all products over images are small matrix products, one for each view and slice. The gradient of a sample is
bilinear in the same values. Slices are processed in chunks that fit the cache; backward evaluates them again.
"""

import functools
import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch.autograd.function import FunctionCtx, once_differentiable

from . import epps_pulley_reference
from .epps_pulley_reference import Quadrature, Redraw

# Samples (slices x views x images) of one chunk; with 17 knots about 20 planes of that size are alive, and 5 more in
# backward. On a CPU they should stay in its cache.
_CHUNK_SAMPLES_CPU, _CHUNK_SAMPLES = 1 << 17, 1 << 19
_BYTES_PER_SAMPLE = 25 * 4
# A chunk has about 70 operations, whatever its size, and the plain formula 31 in all. On CUDA each one costs a launch:
# chunks may take this share of the memory, and the plain formula is used where its tensors have at most 64 MiB.
_SHARE_OF_MEMORY, _PLAIN_NUMBERS = 16, 1 << 24
# Slices added up by one matrix product in backward; a product over thousands loses a digit to rounding.
_SLICES_PER_PRODUCT_CPU, _SLICES_PER_PRODUCT = 32, 512


def samples_per_chunk(memory: int) -> int:
    """Samples of one chunk on an accelerator with so many bytes of memory."""
    return max(_CHUNK_SAMPLES, memory // (_SHARE_OF_MEMORY * _BYTES_PER_SAMPLE))


def _samples_per_chunk(device: torch.device) -> int:
    if device.type == "cuda":
        return samples_per_chunk(torch.cuda.get_device_properties(device).total_memory)
    return _CHUNK_SAMPLES_CPU if device.type == "cpu" else _CHUNK_SAMPLES


def _is_cheaper_plain(projections: torch.Tensor, directions: torch.Tensor, rule: Quadrature) -> bool:
    """Whether the plain formula, in fewer launches, is at least as fast, because there is little to compute."""
    numbers = projections[..., 0].numel() * directions.shape[1] * len(rule.knots)
    return projections.device.type == "cuda" and numbers <= _PLAIN_NUMBERS


class _Harmonics(NamedTuple):
    """
    Which multiples of the base angle are evaluated, and how all T multiples follow from them.

    `combine`, of shape `((1 + 2 * inner) * (1 + 2 * outer), 2 * T)`, maps the products of the inner and the outer
    `(1, cos, sin, cos, ..)` to cos and sin of all T multiples.
    """

    inner: int  # multiples 1 .. inner are evaluated
    stride: int  # 2 * inner + 1
    outer: int  # multiples stride, 2 * stride .. outer * stride are evaluated
    ladder: tuple[tuple[int, int, int], ...]  # (high + low, high, low): both are evaluated before their sum
    combine: torch.Tensor


@functools.lru_cache(maxsize=16)
def _harmonics(num_knots: int, device: torch.device, dtype: torch.dtype) -> _Harmonics:
    inner = max(1, round(math.sqrt((num_knots - 1) / 4)))  # the fewest products for T knots
    stride = 2 * inner + 1
    outer = max(0, math.ceil((num_knots - 1 - inner) / stride))
    ladder = [(multiple, multiple - multiple // 2, multiple // 2) for multiple in range(2, inner + 1)]
    ladder += [(stride * j, stride * (j - j // 2), stride * (j // 2)) for j in range(2, outer + 1)]
    with torch.inference_mode(False):
        knots = []
        for knot in range(num_knots):
            block = min((knot + inner) // stride, outer)
            (cos_a, sin_a), (cos_b, sin_b) = _places(knot - stride * block, inner), _places(block, outer)
            cos = torch.outer(cos_a, cos_b) - torch.outer(sin_a, sin_b)
            sin = torch.outer(cos_a, sin_b) + torch.outer(sin_a, cos_b)
            knots.append(torch.stack([cos, sin], -1).flatten(0, 1))
        combine = torch.stack(knots, -1).flatten(1).to(device, dtype)
        return _Harmonics(inner, stride, outer, tuple(ladder), combine)


def _places(multiple: int, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cos and sin of a multiple as places in the `(1, cos, sin, cos, ..)` of the multiples 0 .. `number`."""
    values = torch.eye(1 + 2 * number, device="cpu")
    sign = (multiple > 0) - (multiple < 0)
    return values[max(0, 2 * abs(multiple) - 1)], sign * values[2 * abs(multiple)]


def _two_parts(number: float, dtype: torch.dtype) -> tuple[float, float]:
    """`number` rounded to `dtype`, and the remainder."""
    high = torch.tensor(number, dtype=dtype, device="cpu").item()
    return high, number - high


class _Planes:
    """Buffers for one chunk of slices, reused for the next chunk; rows are (slice, view), columns are images."""

    def __init__(self, projections: torch.Tensor, harmonics: _Harmonics, spacing: float, num_slices: int) -> None:
        num_views, num_images, _ = projections.shape
        inner, stride, outer = harmonics.inner, harmonics.stride, harmonics.outer
        self.projected = projections.new_empty(num_slices, num_views * num_images)
        self.planes = projections.new_empty(2 * inner + 1 + 2 * outer, num_slices * num_views, num_images)
        self.planes[2 * inner] = 1
        self.by_inner = projections.new_empty(num_slices * num_views, 1 + 2 * inner, num_images)
        self.inner = self.planes[: 2 * inner]
        self.outer_and_one = self.planes[2 * inner :]
        self.outer = self.outer_and_one[1:]
        pairs = {0: (projections.new_ones(()), projections.new_zeros(()))}
        pairs |= {a: (self.inner[2 * a - 2], self.inner[2 * a - 1]) for a in range(1, inner + 1)}
        pairs |= {stride * b: (self.outer[2 * b - 2], self.outer[2 * b - 1]) for b in range(1, outer + 1)}
        self.direct = [
            (*_two_parts(multiple * spacing, projections.dtype), *pairs[multiple])
            for multiple in (1, stride)
            if multiple in pairs
        ]
        self.steps = [(*pairs[k], *pairs[high], *pairs[low], *pairs[high - low]) for k, high, low in harmonics.ladder]

    def fill(self, rows: torch.Tensor, directions: torch.Tensor) -> None:
        """Evaluate cos and sin for projections `(V * B, K)` and the directions of a chunk, `(K, slices)`."""
        torch.mm(directions.T, rows.T, out=self.projected)
        projected = self.projected.view(self.planes.shape[1:])
        for high, low, cos, sin in self.direct:
            # A factor rounded to fp32 would bias all images alike; the second product restores its last digits.
            torch.mul(projected, low or high, out=cos)
            if low:
                cos.add_(projected, alpha=high)
            torch.sin(cos, out=sin)
            torch.cos(cos, out=cos)
        # cos(h + l) = cos(h - l) - 2 sin h sin l and sin(h + l) = sin(h - l) + 2 cos h sin l keep small angles to the
        # last digit, unlike complex products.
        for cos, sin, cos_high, sin_high, _, sin_low, cos_gap, sin_gap in self.steps:
            torch.addcmul(cos_gap, sin_high, sin_low, value=-2, out=cos)
            torch.addcmul(sin_gap, cos_high, sin_low, value=2, out=sin)


class _Pass:
    """One pass over all slices of a batch, chunk by chunk; shared by forward and backward."""

    def __init__(self, projections: torch.Tensor, directions: torch.Tensor, rule: Quadrature) -> None:
        self.num_views, self.num_images, _ = projections.shape
        self.num_slices, self.num_knots = directions.shape[1], len(rule.knots)
        self.rows, self.directions, self.rule = projections.flatten(0, 1), directions, rule
        # For the few numbers per slice whose rounding affects all images: double precision costs nothing there.
        self.exact = torch.float32 if projections.device.type == "mps" else torch.float64
        self.harmonics = _harmonics(self.num_knots, projections.device, self.exact)
        self.num_inner, self.num_outer = 2 * self.harmonics.inner, 2 * self.harmonics.outer
        # The gradient of a cosine is a sine and the other way round: d cos(t x) / dx = -t sin(t x).
        self.rates = torch.stack([rule.knots, -rule.knots])
        self.spread = self.harmonics.combine.T.to(projections.dtype)
        samples = _samples_per_chunk(self.rows.device)
        self.slices_per_product = _SLICES_PER_PRODUCT_CPU if self.rows.device.type == "cpu" else _SLICES_PER_PRODUCT
        self.chunk_slices = min(self.num_slices, max(1, samples // max(1, self.num_views * self.num_images)))
        self.make_planes = functools.partial(_Planes, projections, self.harmonics, rule.spacing)
        self.planes = self.make_planes(self.chunk_slices)

    def chunks(self) -> Iterator[slice]:
        """Slices of each chunk, after its planes were filled."""
        for start in range(0, self.num_slices, self.chunk_slices):
            chunk = slice(start, min(start + self.chunk_slices, self.num_slices))
            size = chunk.stop - start
            if len(self.planes.projected) != size:  # the last chunk
                del self.planes  # frees its memory before the next one is made
                self.planes = self.make_planes(size)
            self.planes.fill(self.rows, self.directions[:, chunk])
            yield chunk

    def sums(self) -> torch.Tensor:
        """Deviation sums of the chunk, (slices, V, 2, T), in the exact dtype."""
        planes = self.planes.planes
        # The values are centred before they are multiplied, because sums of numbers near 1 over thousands of images
        # lose two digits. The centre has few digits, so that subtracting it does not round all images alike.
        centre = planes.mean(-1).bfloat16().to(planes.dtype)
        planes.sub_(centre[..., None])
        rest = planes.mean(-1).to(self.exact).T
        mean = rest + centre.T
        # Means over images of all products of an inner and an outer value.
        means = mean.new_ones(len(mean), 1 + self.num_inner, 1 + self.num_outer)
        means[:, 1:, 0], means[:, 0, 1:] = mean[:, : self.num_inner], mean[:, self.num_inner + 1 :]
        if self.num_outer:
            products = torch.bmm(self.planes.inner.transpose(0, 1), self.planes.outer.permute(1, 2, 0)).to(self.exact)
            products.div_(self.num_images)
            products.addcmul_(means[:, 1:, :1], means[:, :1, 1:])
            products.addcmul_(rest[:, : self.num_inner, None], rest[:, None, self.num_inner + 1 :], value=-1)
            means[:, 1:, 1:] = products
        planes.add_(centre[..., None])
        sums = (means.flatten(1) @ self.harmonics.combine).view(-1, self.num_views, 2, self.num_knots)
        sums[:, :, 0] -= self.rule.normal
        return sums.mul_(self.num_images)

    def add_gradient(self, grad_sums: torch.Tensor, chunk: slice, grad_rows: torch.Tensor) -> None:
        """Carries `grad_sums` of the chunk, (slices, V, 2, T), back to its samples and adds it to (V * B, K)."""
        coefficients = (grad_sums.flip(2) * self.rates).flatten(2).flatten(0, 1) @ self.spread
        coefficients = coefficients.unflatten(1, (1 + self.num_inner, -1))
        by_inner = self.planes.by_inner
        torch.bmm(coefficients, self.planes.outer_and_one.transpose(0, 1), out=by_inner)
        grad = self.planes.projected.view(-1, self.num_images)  # no longer needed
        torch.addcmul(by_inner[:, 0], by_inner[:, 1], self.planes.inner[0], out=grad)
        for plane in range(1, self.num_inner):
            grad.addcmul_(by_inner[:, plane + 1], self.planes.inner[plane])
        grad, directions = self.planes.projected, self.directions[:, chunk].T
        for start in range(0, len(grad), self.slices_per_product):
            part = slice(start, start + self.slices_per_product)
            grad_rows += grad[part].T @ directions[part]


class Context(FunctionCtx):
    """Attributes of the contexts of all autograd functions for SIGReg."""

    saved_tensors: tuple[torch.Tensor, ...]
    needs_input_grad: tuple[bool, ...]
    rule: Quadrature
    redraw: Redraw | None


class _DeviationSums(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Context, projections: torch.Tensor, directions: torch.Tensor, rule: Quadrature, redraw: Redraw | None
    ) -> torch.Tensor:
        ctx.save_for_backward(projections, *([] if redraw else [directions]))
        ctx.rule, ctx.redraw = rule, redraw
        work = _Pass(projections, directions, rule)
        sums = projections.new_empty(work.num_slices, work.num_views, 2, work.num_knots)
        for chunk in work.chunks():
            sums[chunk] = work.sums()
        return sums.permute(2, 1, 0, 3)

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, grad_sums: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        projections = ctx.saved_tensors[0]
        directions = ctx.redraw() if ctx.redraw else ctx.saved_tensors[1]
        work = _Pass(projections, directions, ctx.rule)
        grad_rows = torch.zeros_like(work.rows)
        for chunk in work.chunks():
            work.add_gradient(grad_sums[:, :, chunk].permute(2, 1, 0, 3), chunk, grad_rows)
        return grad_rows.view_as(projections), None, None, None


class _MeanStatistic(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, projections: torch.Tensor, directions: torch.Tensor, rule: Quadrature) -> torch.Tensor:
        work = _Pass(projections, directions, rule)
        count = work.num_views * work.num_slices * work.num_images
        weights = rule.weights / count
        total = torch.zeros((), device=projections.device, dtype=work.exact)
        grad_rows = torch.zeros_like(work.rows) if ctx.needs_input_grad[0] else None
        for chunk in work.chunks():
            sums = work.sums()
            total += (sums.square() * weights).sum()
            if grad_rows is not None:
                work.add_gradient(sums.to(projections.dtype) * (2 * weights), chunk, grad_rows)
        if grad_rows is not None:
            ctx.save_for_backward(grad_rows.view_as(projections))
        return total.to(projections.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return ctx.saved_tensors[0] * grad, None, None


@torch.compiler.disable
def mean_statistic(projections: torch.Tensor, directions: torch.Tensor, rule: Quadrature) -> torch.Tensor:
    """
    The mean of the statistic over views and slices, a scalar, for a batch that is complete on this process.

    Arguments are those of [`deviation_sums`]. Because nothing is exchanged between the sums and their statistic, the
    gradient is computed in the same pass. That is a third faster than [`deviation_sums`] with its backward, and only
    the gradient is kept.
    """
    if _is_cheaper_plain(projections, directions, rule):
        sums = epps_pulley_reference.deviation_sums(projections, directions, rule)
        return statistic_from_sums(sums, projections.shape[1], rule).mean()
    return _MeanStatistic.apply(projections, directions, rule)


@torch.compiler.disable
def deviation_sums(
    projections: torch.Tensor, directions: torch.Tensor, rule: Quadrature, redraw: Redraw | None = None
) -> torch.Tensor:
    """
    [`~ops.epps_pulley_reference.deviation_sums`] in small, bounded memory.

    Only `projections` receives a gradient. Backward keeps the inputs; with `redraw` it does not keep the directions.
    """
    if _is_cheaper_plain(projections, directions, rule):
        return epps_pulley_reference.deviation_sums(projections, directions, rule)
    return _DeviationSums.apply(projections, directions, rule, redraw)


class _Statistic(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, sums: torch.Tensor, num_images: torch.Tensor | int, rule: Quadrature) -> torch.Tensor:
        sums = sums[..., 1:]  # at knot 0 every characteristic function is 1
        rates = sums * (rule.weights[1:] / num_images)
        value = (sums[0] * rates[0]).sum(-1) + (sums[1] * rates[1]).sum(-1)
        ctx.save_for_backward(rates.mul_(2))
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (rates,) = ctx.saved_tensors
        grad_sums = rates.new_zeros(*rates.shape[:-1], rates.shape[-1] + 1)
        torch.mul(rates, grad[..., None], out=grad_sums[..., 1:])
        return grad_sums, None, None


def statistic_from_sums(sums: torch.Tensor, num_images: torch.Tensor | int, rule: Quadrature) -> torch.Tensor:
    """
    [`~ops.epps_pulley_reference.statistic_from_sums`] that keeps only its gradient for backward.

    Only `sums` receives a gradient.
    """
    return _Statistic.apply(sums, num_images, rule)
