"""Embeds digits slowly, a part a batch, so that it can be killed on the way. `embed_run.py ENCODER OUT`."""

import sys
import time

import torch

from lejepa_hf.evaluation.embeddings.embed_images import embed_images
from lejepa_hf.evaluation.feature_extractor import FeatureExtractor


class Slow(FeatureExtractor):
    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        time.sleep(0.1)
        return super().__call__(pixels)


if __name__ == "__main__":
    import lejepa_hf.evaluation.embeddings.embed_images as module

    module.FeatureExtractor = Slow
    torch.set_num_threads(1)
    embed_images(sys.argv[1], "digits", sys.argv[2], batch_size=8, seconds_per_part=0, split="test", streaming=True)
