"""The training-only head between embeddings and losses."""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from .batch_norm import SynchronizedBatchNorm


class _HiddenLayer(nn.Module):
    def __init__(self, linear: nn.Linear, norm: nn.Module) -> None:
        super().__init__()
        self.linear, self.norm = linear, norm

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return F.relu(self.norm(self.linear(rows)))


class Projector(nn.Module):
    """
    MLP with a norm and ReLU after every hidden layer and a plain linear last layer.

    `dims` are the widths of its layers; the last one is the dimension of the projections. `norm` is the
    `projector_norm` of [`LeJEPAConfig`].
    """

    def __init__(self, embedding_dim: int, dims: list[int], norm: str) -> None:
        super().__init__()
        norms: dict[str, Callable[[int], nn.Module]]
        norms = {"batch": SynchronizedBatchNorm, "layer": nn.LayerNorm, "none": lambda _: nn.Identity()}
        kind = norm.removesuffix("_per_size")
        self._per_size = kind != norm
        widths = [embedding_dim, *dims]
        self.hidden = nn.ModuleList(
            _HiddenLayer(nn.Linear(fan_in, fan_out, bias=kind != "batch"), norms[kind](fan_out))
            for fan_in, fan_out in zip(widths[:-2], widths[1:-1], strict=True)
        )
        self.out = nn.Linear(widths[-2], widths[-1])

    def forward(self, *embeddings: torch.Tensor) -> torch.Tensor:
        """Project `(rows, embedding_dim)` of each crop size to the joined rows of all sizes, `(rows, dims[-1])`."""
        if self._per_size:
            return torch.cat([self._project(rows) for rows in embeddings])
        return self._project(torch.cat(embeddings))

    def _project(self, embeddings: torch.Tensor) -> torch.Tensor:
        for layer in self.hidden:
            embeddings = layer(embeddings)
        return self.out(embeddings)
