"""The training-only head between embeddings and losses."""

import torch
from torch import nn
from torch.nn import functional as F

from .distributed import sum_for_activations, world_size


class SynchronizedBatchNorm(nn.BatchNorm1d):
    """
    Batch norm over the joined batch of all ranks, on any device; `torch.nn.SyncBatchNorm` refuses the CPU.

    One all-reduce forward and one backward. Sums are taken around the running mean, which every rank shares, so that
    fp32 does not cancel. Ranks may hold unequal batches.
    """

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """
        Args:
            rows (`torch.Tensor` of shape `(rows, features)`): All views of this rank's images.

        Returns:
            `torch.Tensor`: Same shape and dtype.
        """
        if not self.training or world_size() == 1:
            return super().forward(rows)
        shift = self.running_mean.clone()
        with torch.autocast(rows.device.type, enabled=False):
            shifted = rows.float() - shift
            count = shifted.new_tensor([len(shifted)])
            packed = sum_for_activations(torch.cat([shifted.sum(0), shifted.square().sum(0), count]))
            mean, square = (packed[:-1] / packed[-1].detach()).chunk(2)
            var = square - mean.square()
            with torch.no_grad():
                total = packed[-1]
                self.num_batches_tracked += 1
                self.running_mean.lerp_(mean + shift, self.momentum)
                self.running_var.lerp_(var * total / (total - 1), self.momentum)
            normal = (shifted - mean) * torch.rsqrt(var + self.eps)
            return torch.addcmul(self.bias, normal, self.weight).to(rows.dtype)


class Projector(nn.Module):
    """
    MLP with a norm and ReLU after every hidden layer and a plain linear last layer.

    Args:
        embedding_dim (`int`): Width of the encoder's embeddings.
        dims (`list[int]`): Widths of the layers, the last one is the dimension of the projections.
        norm (`str`): `"batch"`, `"layer"` or `"none"`.
    """

    def __init__(self, embedding_dim: int, dims: list[int], norm: str):
        super().__init__()
        norms = {"batch": SynchronizedBatchNorm, "layer": nn.LayerNorm, "none": lambda _: nn.Identity()}
        widths = [embedding_dim, *dims]
        self.hidden = nn.ModuleList(
            nn.ModuleDict({"linear": nn.Linear(fan_in, fan_out, bias=norm != "batch"), "norm": norms[norm](fan_out)})
            for fan_in, fan_out in zip(widths[:-2], widths[1:-1], strict=True)
        )
        self.out = nn.Linear(widths[-2], widths[-1])

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        """
        Args:
            embeddings (`torch.Tensor` of shape `(rows, embedding_dim)`): All views together.

        Returns:
            `torch.Tensor` of shape `(rows, dims[-1])`: projections.
        """
        for layer in self.hidden:
            embeddings = F.relu(layer["norm"](layer["linear"](embeddings)))
        return self.out(embeddings)
