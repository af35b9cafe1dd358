"""
Characteristic sums on any device without ever holding images x slices x knots.

V views, B images, K projection dimensions, M slices, T knots. The knots are equispaced from 0, so cos and sin at knot
k + 1 follow from those at knot k by one rotation with the angle of the step. Slices go through in chunks; backward
computes the chunk's slices again from the projections, so that only the projections are kept.
"""

import torch

# Elements of one chunk of slices, (V, B, chunk): three or four such fp32 buffers stay in the last-level cache.
_CHUNK_ELEMENTS = 1 << 18


def _slice_chunks(projections: torch.Tensor, num_slices: int) -> list[slice]:
    size = max(1, _CHUNK_ELEMENTS // max(1, projections.shape[0] * projections.shape[1]))
    return [slice(start, min(start + size, num_slices)) for start in range(0, num_slices, size)]


def _rotate(cos: torch.Tensor, sin: torch.Tensor, step_cos: torch.Tensor, step_sin: torch.Tensor):
    return cos * step_cos - sin * step_sin, sin * step_cos + cos * step_sin


class _CharacteristicSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx, projections: torch.Tensor, directions: torch.Tensor, knots: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(projections, directions, knots)
        num_views, num_images, _ = projections.shape
        sums = projections.new_empty(2, num_views, directions.shape[1], len(knots))
        step = knots[1]
        for chunk in _slice_chunks(projections, directions.shape[1]):
            angles = (projections @ directions[:, chunk]) * step  # (V, B, chunk)
            step_cos, step_sin = angles.cos(), angles.sin()
            sums[0, :, chunk, 0], sums[1, :, chunk, 0] = num_images, 0
            cos, sin = step_cos, step_sin
            for knot in range(1, len(knots)):
                if knot > 1:
                    cos, sin = _rotate(cos, sin, step_cos, step_sin)
                sums[0, :, chunk, knot] = cos.sum(1)
                sums[1, :, chunk, knot] = sin.sum(1)
        return sums

    @staticmethod
    def backward(ctx, grad_sums: torch.Tensor):
        projections, directions, knots = ctx.saved_tensors
        grad_projections = torch.zeros_like(projections)
        weighted = grad_sums * knots  # d cos(t x) / dx = -t sin(t x), d sin(t x) / dx = t cos(t x)
        step = knots[1]
        for chunk in _slice_chunks(projections, directions.shape[1]):
            angles = (projections @ directions[:, chunk]) * step
            step_cos, step_sin = angles.cos(), angles.sin()
            grad_cos, grad_sin = weighted[:, :, None, chunk]  # (V, 1, chunk, T) each
            cos, sin = step_cos, step_sin
            grad_slices = grad_sin[..., 1] * cos - grad_cos[..., 1] * sin
            for knot in range(2, len(knots)):
                cos, sin = _rotate(cos, sin, step_cos, step_sin)
                grad_slices.addcmul_(grad_sin[..., knot], cos).addcmul_(grad_cos[..., knot], sin, value=-1)
            grad_projections += grad_slices @ directions[:, chunk].T
        return grad_projections, None, None


def characteristic_sums(projections: torch.Tensor, directions: torch.Tensor, knots: torch.Tensor) -> torch.Tensor:
    """
    [`~ops.epps_pulley_reference.characteristic_sums`] with memory independent of the number of knots.

    Args:
        projections (`torch.Tensor` of shape `(V, B, K)`): fp32; the only input that receives a gradient.
        directions (`torch.Tensor` of shape `(K, M)`): Unit columns, fp32.
        knots (`torch.Tensor` of shape `(T,)`): Equispaced frequencies starting at 0, fp32.

    Returns:
        `torch.Tensor` of shape `(2, V, M, T)`: sums over images of `cos(t x)` and of `sin(t x)`.
    """
    return _CharacteristicSums.apply(projections, directions, knots)
