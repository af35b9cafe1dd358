import pytest
from families import config_of
from transformers import AutoConfig

from lejepa_hf.model.architecture import native_image_size, num_channels, patch_size
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
