from collections import Counter

import pytest
import torch
from families import config_of
from transformers import AutoConfig, AutoModel

from lejepa_hf.model.architecture import find_blocks, native_image_size, num_channels, patch_size
from lejepa_hf.model.backbone import build_backbone


@pytest.mark.parametrize(
    ("architecture", "model_args", "size"),
    [("swinv2_tiny_window8_256", None, 256), ("resnet18", None, 224), ("vit_tiny_patch16_224", {"img_size": 64}, 64)],
)
def test_native_size_of_timm_is_asked_of_timm(architecture, model_args, size):
    config = AutoConfig.for_model("timm_wrapper", architecture=architecture, model_args=model_args)
    assert native_image_size(config) == size


def test_native_size_of_a_checkpoint_comes_first():
    config = AutoConfig.for_model(
        "timm_wrapper", architecture="resnet18", pretrained_cfg={"input_size": [3, 288, 288]}
    )
    assert native_image_size(config) == 288


def test_channels():
    assert num_channels(AutoConfig.for_model("timm_wrapper", architecture="resnet18", model_args={"in_chans": 2})) == 2
    assert num_channels(AutoConfig.for_model("vit", num_channels=5)) == 5
    assert num_channels(AutoConfig.for_model("timm_wrapper", architecture="resnet18")) == 3


def test_patches():
    assert patch_size(build_backbone(config_of("vit"))) == 4
    assert patch_size(build_backbone(config_of("resnet"))) is None
    assert patch_size(build_backbone(AutoConfig.for_model("poolformer", depths=[1] * 4))) is None, "they overlap"
    timm = AutoConfig.for_model("timm_wrapper", architecture="vit_tiny_patch16_224", model_args={"depth": 1})
    assert patch_size(build_backbone(timm)) == 16


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
