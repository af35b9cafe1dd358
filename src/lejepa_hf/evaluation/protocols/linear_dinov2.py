"""Linear classification as DINOv2 measures it: blocks, patches and learning rates swept, random crops and flips."""

from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from ..feature_extractor import FeatureExtractor
from .augmented_probe import AugmentedProbe, Candidate

LEARNING_RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1)  # for 256 images
_BLOCKS = 4


@dataclass(frozen=True)
class LinearDinov2(AugmentedProbe):
    """
    A linear layer on class tokens of the last block, or of the last four, without or with the mean of the patches;
    SGD with momentum 0.9, without weight decay, a cosine without warmup. Each of these four features is tried with
    each of 13 learning rates. Encoders without a class token have the mean of the patches alone.

    Source: DINOv2, arXiv 2304.07193, and its published code. Theirs chooses by test images; here a tenth of the
    training images chooses, and the head is trained again on all of them. Theirs has 12,500 steps of 1,024 images,
    which are ten passes over ImageNet-1k.
    """

    name = "linear-dinov2"

    def features(self, extractor: FeatureExtractor, pixels: torch.Tensor) -> torch.Tensor:
        """Class tokens of the last four blocks, deepest last, then the mean of the patches: all features joined."""
        states = extractor.last_states(pixels, _BLOCKS)
        with torch.no_grad():
            tokens = [state[:, 0] for state in states] if extractor.has_class_token(states[-1], pixels) else []
            return torch.cat([*tokens, extractor.patches(states[-1], pixels).mean(1)], dim=1).float()

    def candidates(
        self, extractor: FeatureExtractor, pixels: torch.Tensor, num_classes: int, batch_size: int
    ) -> list[Candidate]:
        """Four features, or one without a class token, with each learning rate."""
        total = self.features(extractor, pixels).shape[1]
        width = extractor.patches(extractor.last_state(pixels), pixels).shape[-1]
        parts = {"mean of the patches": (0, total)}
        if total > width:
            parts = {
                f"{blocks} block{'s' * (blocks > 1)}, {'with' if patches else 'without'} patches": (
                    total - (blocks + 1) * width,
                    total - width * (not patches),
                )
                for blocks in dict.fromkeys((1, total // width - 1))  # small encoders may have one
                for patches in (False, True)
            }
        return [
            Candidate(
                partial(_LinearOnPart, *part, num_classes), rate * batch_size / 256, f"{name}, learning rate {rate:g}"
            )
            for name, part in parts.items()
            for rate in LEARNING_RATES
        ]

    def optimizer(self, groups: list[dict]) -> torch.optim.Optimizer:
        """SGD with momentum 0.9."""
        return torch.optim.SGD(groups, momentum=0.9)

    def warmup(self, num_steps: int) -> int:
        """0: the learning rates begin at their peaks."""
        return 0


class _LinearOnPart(nn.Linear):
    """A linear layer on the features from number `first` to `last`, with DINOv2's first weights."""

    def __init__(self, first: int, last: int, num_classes: int) -> None:
        super().__init__(last - first, num_classes)
        self.first, self.last = first, last
        nn.init.normal_(self.weight, std=0.01)
        nn.init.zeros_(self.bias)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return super().forward(features[:, self.first : self.last])
