"""
Deviation sums on a GPU: one kernel each way, which never holds images x slices x knots.

V views, B images, K projection dimensions, M slices, T knots. The library for matrix products projects onto a bounded
chunk of slices; a kernel keeps one tile of that chunk in registers and goes through all knots. Backward overwrites the
chunk with its gradient, which a second matrix product carries back to the projections.

Angles are counted in turns of 2 pi, so that whole turns are dropped without rounding and no argument is too large. At
every third knot cos and sin come from polynomials, because the precision of `tl.sin` is Triton's choice; its two
neighbours are one rotation away, so errors do not accumulate.

A batch that is complete on this process takes three launches and one reduction forward: the projection, its sums, the
statistic with its gradient, and the mean; and three backward: the projection again, its gradient, and the way back. No
value is read by the host, so CUDA graphs can hold all of it, for given directions.
"""

import functools
import math
import os
from collections.abc import Iterator
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from .epps_pulley_eager import Context
from .epps_pulley_reference import Quadrature, Redraw, quadrature

# Triton reads this variable when a kernel is declared. Kernels then run on the CPU, slowly, for tests.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

# Number of fp32 values alive for one chunk of slices: 64 MiB, or 0.2 % of the device's memory if that is more. Each
# chunk has launches of its own.
_CHUNK_NUMBERS, _SHARE_OF_MEMORY = 1 << 24, 512
# Samples of one program, 8 per thread: six values of each are alive besides temporaries.
_TILE_SAMPLES = 1024
_TILE_IMAGES = 128  # at most; a warp then has complete slices and sums them without shared memory
_NUM_WARPS = 4
_BLOCK_COLUMNS = 128  # pairs of a view and a slice of one program, one for each thread


@triton.jit
def _cos_sin(turns: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    quarters = tl.floor(4.0 * turns + 0.5)
    rest = turns - 0.25 * quarters  # exact, at most 1/8
    square = rest * rest
    # Minimax polynomials of sin(2 pi r) / r and cos(2 pi r); 2 pi in two parts.
    sin = rest * (-1.7484556e-7 + square * (-41.341673 + square * (81.593937 - 75.453396 * square)))
    sin += rest * 6.2831855
    cos = 1.0 + square * (-19.739209 + square * (64.939326 + square * (-85.443742 + 59.245964 * square)))
    quadrant = quarters.to(tl.int32)
    swapped = (quadrant & 1) == 1
    # cos is negative in quadrants 1 and 2, sin in 2 and 3.
    cos_sign = tl.where(((quadrant + 1) & 2) == 2, -1.0, 1.0)
    sin_sign = tl.where((quadrant & 2) == 2, -1.0, 1.0)
    return cos_sign * tl.where(swapped, sin, cos), sin_sign * tl.where(swapped, cos, sin)


@triton.jit
def _one_step(turns: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """1 - cos and sin of the rotation from one knot to the next: unlike cos, 1 - cos keeps its digits when small."""
    cos_half, sin_half = _cos_sin(0.5 * turns)
    return 2.0 * sin_half * sin_half, 2.0 * sin_half * cos_half


@triton.jit
def _three_knots(turns: tl.tensor, versine: tl.tensor, sine: tl.tensor, middle: tl.tensor) -> tuple[tl.tensor, ...]:
    """Cos and sin at knots middle - 1, middle, middle + 1."""
    cos, sin = _cos_sin(middle * turns)
    cos_common, cos_apart = cos - cos * versine, sin * sine
    sin_common, sin_apart = sin - sin * versine, cos * sine
    return cos_common + cos_apart, sin_common - sin_apart, cos, sin, cos_common - cos_apart, sin_common + sin_apart


@triton.jit
def _tile(
    x_ptr: tl.tensor,
    turn: tl.tensor,
    rest_of_turn: tl.tensor,
    num_slices: tl.tensor,
    num_images: tl.tensor,
    BLOCK_SLICES: tl.constexpr,
    BLOCK_IMAGES: tl.constexpr,
) -> tuple[tl.tensor, ...]:
    """The samples of this program without whole turns: pointers, masks, values and the offsets of its slices."""
    slices = tl.program_id(0) * BLOCK_SLICES + tl.arange(0, BLOCK_SLICES)
    images = tl.program_id(1) * BLOCK_IMAGES + tl.arange(0, BLOCK_IMAGES)
    in_slices, in_images = slices < num_slices, images < num_images
    rows = (slices.to(tl.int64) * tl.num_programs(2) + tl.program_id(2)) * num_images
    pointers = x_ptr + rows[:, None] + images[None, :]
    inside = in_slices[:, None] & in_images[None, :]
    x = tl.load(pointers, mask=inside, other=0.0)
    # The product of two leading halves is exact, so whole turns are dropped before anything is rounded.
    leading = (x.to(tl.int32, bitcast=True) & -4096).to(tl.float32, bitcast=True)
    turns = leading * turn
    turns = turns - tl.floor(turns + 0.5) + ((x - leading) * turn + x * rest_of_turn)
    return pointers, inside, turns, slices, in_slices, in_images


@triton.jit
def _store_sums(
    cos: tl.tensor,
    sin: tl.tensor,
    knot: tl.tensor,
    normal_ptr: tl.tensor,
    sums_ptrs: tl.tensor,
    knot_stride: tl.tensor,
    part_stride: tl.tensor,
    in_slices: tl.tensor,
    in_images: tl.tensor,
) -> None:
    normal = tl.load(normal_ptr + knot)
    # Subtracting from each sample keeps the digits that a sum of numbers near 1 would lose.
    deviations = tl.where(in_images[None, :], cos - normal, 0.0)
    pointers = sums_ptrs + knot * knot_stride
    tl.store(pointers, tl.sum(deviations, axis=1), mask=in_slices)
    tl.store(pointers + part_stride, tl.sum(sin, axis=1), mask=in_slices)  # sin is 0 outside


@triton.jit
def _sums_kernel(
    x_ptr: tl.tensor,  # (M, V, B)
    normal_ptr: tl.tensor,  # (P,): knots 1, 2, .., up to a multiple of three
    sums_ptr: tl.tensor,  # (splits of B, 2, P, V, M)
    turn: tl.tensor,  # knot spacing / (2 pi), its leading 12 bits
    rest_of_turn: tl.tensor,  # the remaining bits
    num_slices: tl.tensor,
    num_images: tl.tensor,
    num_knots: tl.tensor,  # P
    BLOCK_SLICES: tl.constexpr,
    BLOCK_IMAGES: tl.constexpr,
) -> None:
    _, _, turns, slices, in_slices, in_images = _tile(
        x_ptr, turn, rest_of_turn, num_slices, num_images, BLOCK_SLICES, BLOCK_IMAGES
    )
    versine, sine = _one_step(turns)
    knot_stride = tl.num_programs(2).to(tl.int64) * num_slices
    part_stride = num_knots * knot_stride
    sums_ptrs = sums_ptr + tl.program_id(1) * 2 * part_stride + tl.program_id(2) * num_slices + slices
    for knot in range(0, num_knots, 3):
        cos_0, sin_0, cos_1, sin_1, cos_2, sin_2 = _three_knots(turns, versine, sine, knot + 2)
        _store_sums(cos_0, sin_0, knot, normal_ptr, sums_ptrs, knot_stride, part_stride, in_slices, in_images)
        _store_sums(cos_1, sin_1, knot + 1, normal_ptr, sums_ptrs, knot_stride, part_stride, in_slices, in_images)
        _store_sums(cos_2, sin_2, knot + 2, normal_ptr, sums_ptrs, knot_stride, part_stride, in_slices, in_images)


@triton.jit
def _slope(
    cos: tl.tensor,
    sin: tl.tensor,
    knot: tl.tensor,
    grads_ptrs: tl.tensor,
    knot_stride: tl.tensor,
    part_stride: tl.tensor,
    in_slices: tl.tensor,
) -> tl.tensor:
    """The gradient from one knot: d cos(t x) / dx = -t sin(t x) and d sin(t x) / dx = t cos(t x)."""
    pointers = grads_ptrs + knot * knot_stride
    grad_cos = tl.load(pointers, mask=in_slices, other=0.0)
    grad_sin = tl.load(pointers + part_stride, mask=in_slices, other=0.0)
    return grad_sin[:, None] * cos - grad_cos[:, None] * sin


@triton.jit
def _gradient_kernel(
    x_ptr: tl.tensor,  # (M, V, B), overwritten with the gradient of x
    grads_ptr: tl.tensor,  # (2, P, V, M), gradients of the sums, times t
    factor_ptr: tl.tensor,  # one number, by which the gradient is multiplied
    turn: tl.tensor,  # knot spacing / (2 pi), its leading 12 bits
    rest_of_turn: tl.tensor,  # the remaining bits
    num_slices: tl.tensor,
    num_images: tl.tensor,
    num_knots: tl.tensor,  # P
    BLOCK_SLICES: tl.constexpr,
    BLOCK_IMAGES: tl.constexpr,
) -> None:
    pointers, inside, turns, slices, in_slices, _ = _tile(
        x_ptr, turn, rest_of_turn, num_slices, num_images, BLOCK_SLICES, BLOCK_IMAGES
    )
    versine, sine = _one_step(turns)
    knot_stride = tl.num_programs(2).to(tl.int64) * num_slices
    part_stride = num_knots * knot_stride
    grads_ptrs = grads_ptr + tl.program_id(2) * num_slices + slices
    gradient = tl.zeros([BLOCK_SLICES, BLOCK_IMAGES], dtype=tl.float32)
    for knot in range(0, num_knots, 3):
        cos_0, sin_0, cos_1, sin_1, cos_2, sin_2 = _three_knots(turns, versine, sine, knot + 2)
        gradient += _slope(cos_0, sin_0, knot, grads_ptrs, knot_stride, part_stride, in_slices)
        gradient += _slope(cos_1, sin_1, knot + 1, grads_ptrs, knot_stride, part_stride, in_slices)
        gradient += _slope(cos_2, sin_2, knot + 2, grads_ptrs, knot_stride, part_stride, in_slices)
    tl.store(pointers, gradient * tl.load(factor_ptr), mask=inside)


@triton.jit
def _statistic_kernel(
    sums_ptr: tl.tensor,  # (splits of B, 2, P, V, M)
    weights_ptr: tl.tensor,  # (P,)
    rates_ptr: tl.tensor,  # (P,), twice the weights times t
    values_ptr: tl.tensor,  # (programs,), sums over the columns of each
    grads_ptr: tl.tensor,  # (2, P, V, M), gradients of the sums, times t
    scale: tl.tensor,  # 1 / (N V M)
    num_columns: tl.tensor,  # V M
    num_knots: tl.tensor,  # P
    num_splits: tl.tensor,
    BLOCK_COLUMNS: tl.constexpr,
) -> None:
    columns = tl.program_id(0).to(tl.int64) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    inside = columns < num_columns
    part_stride = num_knots * num_columns.to(tl.int64)
    value = tl.zeros([BLOCK_COLUMNS], dtype=tl.float32)
    for knot in range(num_knots):
        places = knot * num_columns.to(tl.int64) + columns
        cos = tl.zeros([BLOCK_COLUMNS], dtype=tl.float32)
        sin = tl.zeros([BLOCK_COLUMNS], dtype=tl.float32)
        for split in range(num_splits):
            pointers = sums_ptr + 2 * split * part_stride + places
            cos += tl.load(pointers, mask=inside, other=0.0)
            sin += tl.load(pointers + part_stride, mask=inside, other=0.0)
        value += tl.load(weights_ptr + knot) * (cos * cos + sin * sin)
        rate = scale * tl.load(rates_ptr + knot)
        tl.store(grads_ptr + places, rate * cos, mask=inside)
        tl.store(grads_ptr + part_stride + places, rate * sin, mask=inside)
    tl.store(values_ptr + tl.program_id(0), scale * tl.sum(value, axis=0))


class _Tables(NamedTuple):
    """A rule at knots 1, 2, .., filled up with zeros to a multiple of three, on the device."""

    normal: torch.Tensor
    weights: torch.Tensor
    rates: torch.Tensor  # twice the weights times t
    one: torch.Tensor


@functools.lru_cache(maxsize=16)
def _tables(num_knots: int, spacing: float, device: torch.device) -> _Tables:
    """Kept, because each of them would be a launch in every step, and a graph cannot hold a copy from the host."""
    with torch.inference_mode(False):
        rule = quadrature(num_knots, spacing * (num_knots - 1), "cpu", torch.float64)
        columns = rule.normal, rule.weights, 2 * rule.weights * rule.knots
        padded = (pad(column[1:], (0, -(num_knots - 1) % 3)).to(device, torch.float32) for column in columns)
        normal, weights, rates = padded
        return _Tables(normal, weights, rates, torch.ones((), device=device))


class _Launch:
    """Grid, block sizes and chunks for one batch."""

    def __init__(self, projections: torch.Tensor, directions: torch.Tensor, rule: Quadrature) -> None:
        self.num_views, self.num_images, _ = projections.shape
        self.rows, self.directions, self.rule = projections.float().flatten(0, 1), directions, rule
        mantissa, exponent = math.frexp(rule.spacing / (2 * math.pi))
        self.turn = math.ldexp(round(math.ldexp(mantissa, 12)), exponent - 12)
        self.rest_of_turn = rule.spacing / (2 * math.pi) - self.turn
        # Small batches get more slices per tile; powers of two, so that few kernels are compiled.
        self.block_images = min(_TILE_IMAGES, max(8, triton.next_power_of_2(self.num_images)))
        self.block_slices = _TILE_SAMPLES // self.block_images
        self.splits = triton.cdiv(self.num_images, self.block_images)
        # The kernels start at knot 1: at knot 0 there is neither deviation nor gradient.
        self.tables = _tables(len(rule.knots), rule.spacing, projections.device)
        self.num_knots = len(self.tables.normal)
        self.padding = self.num_knots - len(rule.knots) + 1

    def __call__(self, kernel: triton.JITFunction, samples: torch.Tensor, *tensors: torch.Tensor) -> None:
        grid = triton.cdiv(len(samples), self.block_slices), self.splits, self.num_views
        numbers = self.turn, self.rest_of_turn, len(samples), self.num_images, self.num_knots
        blocks = {"BLOCK_SLICES": self.block_slices, "BLOCK_IMAGES": self.block_images}
        with torch.cuda.device_of(samples):  # Triton launches on the current device
            # Fusion halves the instructions; its default differs between versions.
            kernel[grid](samples, *tensors, *numbers, **blocks, num_warps=_NUM_WARPS, enable_fp_fusion=True)

    def chunks(self) -> Iterator[tuple[slice, torch.Tensor]]:
        """
        The slices of a chunk and their samples x, of shape `(slices, V * B)`. Each chunk overwrites the previous one.

        This product and the one in backward write into given memory, because autocast would run other products in half
        precision. TensorFloat-32 is used if the user allows it.
        """
        numbers = self.num_views * (self.num_images + 2 * self.num_knots * self.splits)
        num_slices = self.directions.shape[1]
        size = min(num_slices, max(1, _chunk_numbers(self.rows.device) // numbers))
        samples = self.rows.new_empty(size, len(self.rows))
        for start in range(0, num_slices, size):
            chunk = slice(start, min(start + size, num_slices))
            of_chunk = samples[: chunk.stop - chunk.start]
            torch.mm(self.directions[:, chunk].T, self.rows.T, out=of_chunk)
            yield chunk, of_chunk

    def sums_of_splits(self, samples: torch.Tensor) -> torch.Tensor:
        """Deviation sums of a chunk, separately for each part of the images: (splits, 2, P, V, slices)."""
        sums = samples.new_empty(self.splits, 2, self.num_knots, self.num_views, len(samples))
        self(_sums_kernel, samples, self.tables.normal, sums)
        return sums

    def statistic(self, sums: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Writes the part of the mean statistic of each program into `values`; the gradients (2, P, V, slices)."""
        grads, num_columns = torch.empty_like(sums[0]), sums[0, 0, 0].numel()
        scale = 1 / (self.num_images * self.num_views * self.directions.shape[1])
        numbers = scale, num_columns, self.num_knots, self.splits
        tensors = sums, self.tables.weights, self.tables.rates, values, grads
        with torch.cuda.device_of(sums):
            grid = (len(values),)
            _statistic_kernel[grid](*tensors, *numbers, BLOCK_COLUMNS=_BLOCK_COLUMNS, num_warps=_NUM_WARPS)
        return grads

    def gradient(self, samples: torch.Tensor, grads: torch.Tensor, factor: torch.Tensor) -> None:
        """Overwrites samples with their gradient, from that of the sums times t, (2, P, V, slices), and a factor."""
        self(_gradient_kernel, samples, grads, factor)


def _chunk_numbers(device: torch.device) -> int:
    if device.type != "cuda":
        return _CHUNK_NUMBERS
    return max(_CHUNK_NUMBERS, torch.cuda.get_device_properties(device).total_memory // (4 * _SHARE_OF_MEMORY))


def _project_back(grad_rows: torch.Tensor, samples: torch.Tensor, directions: torch.Tensor, is_first: bool) -> None:
    """The gradient of a chunk's samples carried back to rows, added to that of earlier chunks."""
    if is_first:
        torch.mm(samples.T, directions.T, out=grad_rows)
    else:
        grad_rows.addmm_(samples.T, directions.T)


class _DeviationSums(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Context, projections: torch.Tensor, directions: torch.Tensor, rule: Quadrature, redraw: Redraw | None
    ) -> torch.Tensor:
        ctx.save_for_backward(projections, *([] if redraw else [directions]))
        ctx.rule, ctx.redraw = rule, redraw
        launch = _Launch(projections, directions, rule)
        sums = directions.new_zeros(2, launch.num_views, directions.shape[1], len(rule.knots))
        for chunk, samples in launch.chunks():
            of_splits = launch.sums_of_splits(samples)
            sums[:, :, chunk, 1:] = of_splits.sum(0)[:, : len(rule.knots) - 1].permute(0, 2, 3, 1)
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, grad_sums: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        projections = ctx.saved_tensors[0]
        directions = ctx.redraw() if ctx.redraw else ctx.saved_tensors[1]
        launch = _Launch(projections, directions, ctx.rule)
        grad_rows = torch.empty_like(launch.rows)
        for chunk, samples in launch.chunks():
            grads = pad((grad_sums[:, :, chunk] * ctx.rule.knots)[..., 1:], (0, launch.padding))
            launch.gradient(samples, grads.permute(0, 3, 1, 2).contiguous(), launch.tables.one)
            _project_back(grad_rows, samples, directions[:, chunk], is_first=chunk.start == 0)
        return grad_rows.view(projections.shape).to(projections.dtype), None, None, None


class _MeanStatistic(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, projections: torch.Tensor, directions: torch.Tensor, rule: Quadrature) -> torch.Tensor:
        launch = _Launch(projections, directions, rule)
        values, grads = [], []
        for _, samples in launch.chunks():
            num_programs = triton.cdiv(launch.num_views * len(samples), _BLOCK_COLUMNS)
            values.append(samples.new_empty(num_programs))
            grads.append(launch.statistic(launch.sums_of_splits(samples), values[-1]))
        ctx.save_for_backward(projections, directions, *grads)
        ctx.rule = rule
        return (values[0] if len(values) == 1 else torch.cat(values)).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        projections, directions, *grads = ctx.saved_tensors
        launch = _Launch(projections, directions, ctx.rule)
        grad_rows = torch.empty_like(launch.rows)
        for (chunk, samples), of_chunk in zip(launch.chunks(), grads, strict=True):
            launch.gradient(samples, of_chunk, grad)
            _project_back(grad_rows, samples, directions[:, chunk], is_first=chunk.start == 0)
        return grad_rows.view(projections.shape).to(projections.dtype), None, None


@torch.compiler.disable
def mean_statistic(projections: torch.Tensor, directions: torch.Tensor, rule: Quadrature) -> torch.Tensor:
    """
    [`~ops.epps_pulley_eager.mean_statistic`] on a GPU in few launches: 3 kernels and 1 reduction forward, 3 kernels
    backward, for fp32 projections and slices of one chunk.

    Only `projections` receives a gradient, in its own dtype. Backward keeps the inputs and, for each view and slice,
    the gradient of the sums.
    """
    return _MeanStatistic.apply(projections, directions, rule)


@torch.compiler.disable
def deviation_sums(
    projections: torch.Tensor, directions: torch.Tensor, rule: Quadrature, redraw: Redraw | None = None
) -> torch.Tensor:
    """
    [`~ops.epps_pulley_reference.deviation_sums`] on a GPU in bounded memory, also for projections in bf16 or fp16.

    Only `projections` receives a gradient, in its own dtype, and only the inputs are kept for backward; with `redraw`
    not the directions.
    """
    return _DeviationSums.apply(projections, directions, rule, redraw)
