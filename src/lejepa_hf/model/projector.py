"""The training-only head between embeddings and losses."""

import torch
from torch import nn
from torch.nn import functional as F

from ..system.distributed import stack_over_ranks, total_over_ranks, world_size


class _NormalizeOverRanks(torch.autograd.Function):
    """Rows to zero mean and unit variance over all ranks: one gather forward, one all-reduce backward."""

    @staticmethod
    def forward(ctx, rows: torch.Tensor, eps: float) -> tuple[torch.Tensor, ...]:
        # Every rank's own mean and spread, joined by Chan's formula: plain sums of squares would cancel in fp32.
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
    def backward(ctx, grad: torch.Tensor, *_):
        normal, scale, total = ctx.saved_tensors
        sums = torch.stack([grad.sum(0), (grad * normal).sum(0)])
        mean_grad, mean_product = total_over_ranks(sums) / total
        return (grad - mean_grad - normal * mean_product) * scale, None


class SynchronizedBatchNorm(nn.BatchNorm1d):
    """
    Batch norm over the joined batch of all ranks, on any device; `torch.nn.SyncBatchNorm` refuses the CPU.

    Ranks may hold unequal batches.
    """

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """
        Args:
            rows (`torch.Tensor` of shape `(rows, features)`): All views of this rank's images.

        Returns:
            `torch.Tensor`: Same shape and dtype.
        """
        by_batch = self.training or self.running_mean is None
        if not by_batch or world_size() == 1:
            return super().forward(rows)
        with torch.autocast(rows.device.type, enabled=False):
            normal, mean, var, total = _NormalizeOverRanks.apply(rows.float(), self.eps)
            if self.training:
                self.num_batches_tracked += 1
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(var * total / (total - 1), self.momentum)
            return torch.addcmul(self.bias, normal, self.weight).to(rows.dtype)


class Projector(nn.Module):
    """
    MLP with a norm and ReLU after every hidden layer and a plain linear last layer.

    Args:
        embedding_dim (`int`): Width of the encoder's embeddings.
        dims (`list[int]`): Widths of the layers, the last one is the dimension of the projections.
        norm (`str`): `"batch"`, `"batch_per_size"`, `"layer"` or `"none"`, see [`LeJEPAConfig`].
    """

    def __init__(self, embedding_dim: int, dims: list[int], norm: str):
        super().__init__()
        norms = {"batch": SynchronizedBatchNorm, "layer": nn.LayerNorm, "none": lambda _: nn.Identity()}
        kind = norm.removesuffix("_per_size")
        self._per_size = kind != norm
        widths = [embedding_dim, *dims]
        self.hidden = nn.ModuleList(
            nn.ModuleDict({"linear": nn.Linear(fan_in, fan_out, bias=kind != "batch"), "norm": norms[kind](fan_out)})
            for fan_in, fan_out in zip(widths[:-2], widths[1:-1], strict=True)
        )
        self.out = nn.Linear(widths[-2], widths[-1])

    def forward(self, *embeddings: torch.Tensor) -> torch.Tensor:
        """
        Args:
            embeddings (`torch.Tensor` of shape `(rows, embedding_dim)`): All views of a crop size, for each of them.

        Returns:
            `torch.Tensor` of shape `(rows of all sizes, dims[-1])`: projections.
        """
        if self._per_size:
            return torch.cat([self._project(rows) for rows in embeddings])
        return self._project(torch.cat(embeddings))

    def _project(self, embeddings: torch.Tensor) -> torch.Tensor:
        for layer in self.hidden:
            embeddings = F.relu(layer["norm"](layer["linear"](embeddings)))
        return self.out(embeddings)
