from collections import Counter

import pytest
import torch
from transformers import AutoConfig, AutoModel

from lejepa_hf.model.repeated_layers import find_blocks


@pytest.mark.parametrize(
    ("config", "blocks"),
    [
        ({"model_type": "vit"}, {"ViTLayer": 12}),
        ({"model_type": "dinov3_vit"}, {"DINOv3ViTLayer": 12}),
        ({"model_type": "resnet"}, {"ResNetBottleNeckLayer": 16}),
        ({"model_type": "swin"}, {"SwinLayer": 12}),
        ({"model_type": "efficientnet"}, {"EfficientNetBlock": 55}),
        ({"model_type": "convnextv2"}, {"ConvNextV2Layer": 18, "ConvNextV2LayerNorm": 3}),
        ({"model_type": "timm_wrapper", "architecture": "resnet50", "num_classes": 0}, {"Bottleneck": 16}),
        ({"model_type": "timm_wrapper", "architecture": "vit_tiny_patch16_224", "num_classes": 0}, {"Block": 12}),
    ],
    ids=lambda value: value.get("architecture", value.get("model_type", "")) if isinstance(value, dict) else "",
)
def test_blocks_of_the_families(config, blocks):
    with torch.device("meta"):
        backbone = AutoModel.from_config(AutoConfig.for_model(**config))
    assert Counter(type(block).__name__ for block in find_blocks(backbone)) == blocks


def test_a_network_without_lists_has_none():
    assert find_blocks(torch.nn.Linear(2, 2)) == []
