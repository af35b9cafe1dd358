"""The training-only head between embeddings and losses."""

from collections import OrderedDict
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import nn

from .batch_norm import SynchronizedBatchNorm


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
        self.hidden = nn.Sequential()
        for fan_in, fan_out in pairwise(widths[:-1]):
            linear = nn.Linear(fan_in, fan_out, bias=kind != "batch")
            layer = OrderedDict(linear=linear, norm=norms[kind](fan_out), activation=nn.ReLU())
            self.hidden.append(nn.Sequential(layer))
        self.out = nn.Linear(widths[-2], widths[-1])

    def forward(self, *embeddings: torch.Tensor) -> torch.Tensor:
        """Project `(rows, embedding_dim)` of each crop size to the joined rows of all sizes, `(rows, dims[-1])`."""
        if self._per_size:
            return torch.cat([self.out(self.hidden(rows)) for rows in embeddings])
        return self.out(self.hidden(torch.cat(embeddings)))
