"""Classification by one cross-attention layer over the tokens of a frozen encoder."""

from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from ..feature_extractor import FeatureExtractor
from .augmented_probe import AugmentedProbe, Candidate

LEARNING_RATES = (1e-4, 3e-4, 1e-3, 3e-3)
_WEIGHT_DECAY, _HEAD_DIM, _MLP_RATIO, _STD = 0.01, 64, 4, 0.02


@dataclass(frozen=True)
class Attentive(AugmentedProbe):
    """
    A learned query attends to all tokens of the last layer, or to all positions of its feature map; then an MLP with a
    residual connection, LayerNorm and a linear layer. AdamW with weight decay 0.01, a tenth of the steps warmup, four
    learning rates.

    Source: the attentive probe of V-JEPA, arXiv 2404.08471: one cross-attention block with an MLP. Number of passes,
    learning rates and what chooses among them are ours.
    """

    name = "attentive"

    def features(self, extractor: FeatureExtractor, pixels: torch.Tensor) -> torch.Tensor:
        """All tokens `(batch_size, num_tokens, width)`."""
        with torch.no_grad():
            state = extractor.last_state(pixels)
            return (state if state.ndim == 3 else extractor.patches(state, pixels)).float()

    def candidates(
        self, extractor: FeatureExtractor, pixels: torch.Tensor, num_classes: int, batch_size: int
    ) -> list[Candidate]:
        """One head with each learning rate."""
        width = self.features(extractor, pixels).shape[-1]
        make = partial(_AttentiveHead, width, num_classes)
        return [Candidate(make, rate, f"learning rate {rate:g}") for rate in LEARNING_RATES]

    def optimizer(self, groups: list[dict]) -> torch.optim.Optimizer:
        """AdamW."""
        return torch.optim.AdamW(groups, weight_decay=_WEIGHT_DECAY)

    def warmup(self, num_steps: int) -> int:
        """A tenth of the steps."""
        return num_steps // 10


class _AttentiveHead(nn.Module):
    """Cross-attention of one query over tokens `(batch_size, num_tokens, width)`, MLP, classes."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.num_heads = next(number for number in range(max(1, width // _HEAD_DIM), 0, -1) if width % number == 0)
        self.query = nn.Parameter(torch.empty(1, 1, width).normal_(std=_STD))
        self.of_query, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.of_tokens = nn.Linear(width, 2 * width)  # keys, values
        self.norm_of_tokens, self.norm_of_mlp, self.norm = (nn.LayerNorm(width) for _ in range(3))
        self.mlp = nn.Sequential(nn.Linear(width, _MLP_RATIO * width), nn.GELU(), nn.Linear(_MLP_RATIO * width, width))
        self.classes = nn.Linear(width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=_STD)
                nn.init.zeros_(module.bias)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        keys, values = self._heads(self.of_tokens(self.norm_of_tokens(tokens))).chunk(2, dim=-1)
        query = self.query.expand(len(tokens), -1, -1)
        attended = F.scaled_dot_product_attention(self._heads(self.of_query(query)), keys, values)
        pooled = query + self.out(attended.transpose(1, 2).flatten(2))
        pooled = pooled + self.mlp(self.norm_of_mlp(pooled))
        return self.classes(self.norm(pooled[:, 0]))

    def _heads(self, tokens: torch.Tensor) -> torch.Tensor:
        """`(batch_size, num_tokens, width)` -> `(batch_size, num_heads, num_tokens, width / num_heads)`."""
        return tokens.unflatten(2, (self.num_heads, -1)).transpose(1, 2)
