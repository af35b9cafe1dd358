"""Batch norm over the joined batch of all processes, and batch norm that normalises by the batch during evaluation."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.autograd.function import FunctionCtx
from torch.nn.modules.batchnorm import _BatchNorm

from ..system.distributed import stack_over_ranks, total_over_ranks, world_size


class _NormalizeContext(FunctionCtx):
    saved_tensors: tuple[torch.Tensor, ...]


class _NormalizeOverRanks(torch.autograd.Function):
    """Rows to zero mean and unit variance over all ranks: one gather forward, one all-reduce backward."""

    @staticmethod
    def forward(ctx: _NormalizeContext, rows: torch.Tensor, eps: float) -> tuple[torch.Tensor, ...]:
        # The mean and spread of each rank are joined by Chan's formula: plain sums of squares would cancel in fp32.
        local_mean = rows.mean(0)
        local_spread = (rows - local_mean).square().sum(0)
        packed = torch.cat([local_mean, local_spread, rows.new_tensor([len(rows)])])
        means, spreads, counts = stack_over_ranks(packed).split([rows.shape[1], rows.shape[1], 1], dim=1)
        total = counts.sum()
        mean = (counts * means).sum(0) / total
        var = (spreads + counts * (means - mean).square()).sum(0) / total
        scale = torch.rsqrt(var + eps)
        normal = (rows - mean) * scale
        ctx.save_for_backward(normal, scale, total)
        ctx.mark_non_differentiable(mean, var, total)
        return normal, mean, var, total

    @staticmethod
    def backward(ctx: _NormalizeContext, grad: torch.Tensor, *_: torch.Tensor) -> tuple[torch.Tensor, None]:
        normal, scale, total = ctx.saved_tensors
        sums = torch.stack([grad.sum(0), (grad * normal).sum(0)])
        mean_grad, mean_product = total_over_ranks(sums) / total
        return (grad - mean_grad - normal * mean_product) * scale, None


class SynchronizedBatchNorm(nn.BatchNorm1d):
    """
    Batch norm over the joined batch of all ranks, which may hold batches of different sizes, on any device.

    `torch.nn.SyncBatchNorm` refuses the CPU.
    """

    momentum: float  # `None`, a cumulative average, is not supported

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Normalise each feature of `(rows, features)`: the rows are all views of this rank's images."""
        by_batch = self.training or self.running_mean is None
        if not by_batch or world_size() == 1:
            return super().forward(rows)
        with torch.autocast(rows.device.type, enabled=False):
            normal, mean, var, total = _NormalizeOverRanks.apply(rows.float(), self.eps)
            if self.training:
                self._update_running_statistics(mean, var * total / (total - 1))
            return torch.addcmul(self.bias, normal, self.weight).to(rows.dtype)

    def _update_running_statistics(self, mean: torch.Tensor, var: torch.Tensor) -> None:
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var, self.momentum)


@contextmanager
def batch_statistics(model: nn.Module) -> Iterator[None]:
    """
    Make all batch norms of a model in evaluation mode normalise by the batch they see, without running statistics.

    A network that takes crops of several sizes has a single running average for all sizes, which fits none of them: in
    plain evaluation mode the objective differs from the one in training, by a factor of up to 17 on digits.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    kept = [(norm.running_mean, norm.running_var) for norm in norms]
    try:
        for norm in norms:
            norm.running_mean = norm.running_var = None
        yield
    finally:
        for norm, (mean, var) in zip(norms, kept, strict=True):
            norm.running_mean, norm.running_var = mean, var
