"""Images of coloured squares with their masks, and an encoder that sees no more than colours."""

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from lejepa_hf.data.sources import load_source
from lejepa_hf.evaluation.protocols import segmentation as module

COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)


class Pixels(PreTrainedModel):
    """An encoder whose feature map is the image."""

    config_class = PreTrainedConfig

    def __init__(self, num_channels: int = 3):
        super().__init__(PreTrainedConfig(num_channels=num_channels, image_size=8))
        self.one = torch.nn.Parameter(torch.ones(1))

    def forward(self, pixel_values):
        return BaseModelOutput(last_hidden_state=self.one * pixel_values)


def a_source(number: int, seed: int, size=(8, 8), coloured: bool = True, values=(0, 1, 2), squares: int = 2):
    """Squares of three classes in their colours, or in any."""
    rng, images, masks = np.random.default_rng(seed), [], []
    for _ in range(number):
        height, width = size
        classes = np.kron(rng.integers(0, 3, (squares, squares)), np.ones((height // squares, width // squares), int))
        shown = classes if coloured else rng.integers(0, 3, size)
        images.append(Image.fromarray(COLOURS[shown]))
        masks.append(Image.fromarray(np.array(values, np.uint8)[classes]))
    features = datasets.Features({"image": datasets.Image(), "mask": datasets.Image()})
    dataset = datasets.Dataset.from_dict({"image": images, "mask": masks}, features=features)
    return load_source(dataset, image_column="image", label_column="mask")


def segmentation(*arguments, learning_rates=(0.1,), num_epochs: int = 20, **settings) -> dict[str, float]:
    """The protocol with these settings on encoder, processor and both sources, with fewer steps than it has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "LEARNING_RATES", learning_rates)
        patch.setattr(module, "_LEAST_STEPS", 0)
        patch.setattr(module, "_LEAST_EPOCHS", num_epochs)
        return module.Segmentation(**settings).run(*arguments)
