import pytest
import torch
from transformers import AutoConfig, AutoModel, BeitConfig
from transformers.models.beit.modeling_beit import BeitRelativePositionBias

from lejepa_hf.backbone.building import build_backbone, load_pretrained_backbone
from lejepa_hf.backbone.crop_sizes import check_crop_size
from lejepa_hf.backbone.facts import native_image_size
from lejepa_hf.backbone.pooling import resolve_pooling
from lejepa_hf.backbone.standalone import as_standalone

TOKENS = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16, "patch_size": 4}
FAMILIES = {
    "vit": (TOKENS | {"intermediate_size": 64}, "cls", 32),
    "deit": (TOKENS | {"intermediate_size": 64}, "cls", 32),
    "ijepa": (TOKENS | {"intermediate_size": 64}, "mean", 32),
    "dinov2": (TOKENS, "pooler", 32),
    "dinov3_vit": (TOKENS | {"intermediate_size": 64, "num_register_tokens": 1}, "pooler", 32),
    "resnet": ({"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}, "pooler", 16),
    "convnextv2": ({"hidden_sizes": [8, 16, 16, 24], "depths": [1, 1, 1, 1]}, "pooler", 24),
    "swin": (
        {"embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "image_size": 32, "patch_size": 2, "window_size": 4},
        "pooler",
        16,
    ),
    "timm_wrapper": ({"architecture": "resnet18"}, "pooler", 512),
}


def config_of(family):
    return AutoConfig.for_model(family, **FAMILIES[family][0])


@pytest.mark.parametrize("family", FAMILIES)
def test_automatic_pooling_and_width(family):
    assert resolve_pooling(config_of(family), "auto") == FAMILIES[family][1:]


@pytest.mark.parametrize("family", FAMILIES)
def test_no_parameter_is_left_without_a_gradient(family):
    from lejepa_hf import LeJEPAConfig, LeJEPAModel

    model = LeJEPAModel(LeJEPAConfig(backbone_config=config_of(family)))
    size = max(32, native_image_size(model.backbone.config) if "image_size" in FAMILIES[family][0] else 64)
    model(torch.randn(2, 3, size, size)).pooler_output.square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize(("family", "pooling"), [("resnet", "cls"), ("ijepa", "pooler"), ("swin", "cls")])
def test_pooling_that_cannot_be_made_lists_what_can(family, pooling):
    with pytest.raises(ValueError, match=f"{pooling!r} cannot be made from a {family}.*mean"):
        resolve_pooling(config_of(family), pooling)


def test_a_model_that_takes_no_pixels():
    config = AutoConfig.for_model("bert", hidden_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=20)
    with pytest.raises(ValueError, match="a bert model does not turn pixels into embeddings"):
        resolve_pooling(config, "auto")


def test_timm_keeps_its_own_initialisation():
    torch.manual_seed(0)
    weights = build_backbone(config_of("timm_wrapper")).state_dict()
    # timm: kaiming for filters, zero for the last norm of a block; the wrapper alone: normal(0, 0.02) and one
    assert weights["timm_model.layer1.0.conv1.weight"].std() > 0.05
    assert weights["timm_model.layer1.0.bn2.weight"].abs().max() == 0


@pytest.mark.parametrize("size", [98, 40, 6])
def test_crop_that_is_no_multiple_of_the_patch_names_it(size):
    config = AutoConfig.for_model("vit", image_size=224, patch_size=16)
    with pytest.raises(ValueError, match=f"`local_crop_size` {size}.*patch size 16"):
        check_crop_size(config, "local_crop_size", size)


def test_crop_that_a_convolution_cannot_take():
    with pytest.raises(ValueError, match="`local_crop_size` 16 cannot be taken by the convnextv2"):
        check_crop_size(config_of("convnextv2"), "local_crop_size", 16)
    check_crop_size(config_of("convnextv2"), "local_crop_size", 64)


def test_standalone_vit_has_an_identity_pooler_and_leaves_the_original_alone():
    backbone = build_backbone(config_of("vit")).eval()
    before = backbone.config.to_dict()
    standalone = as_standalone(backbone, "cls")
    pixels = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(standalone(pixels).pooler_output, backbone(pixels).last_hidden_state[:, 0])
    assert backbone.config.to_dict() == before and not hasattr(backbone.config, "embedding_pooling")


def test_warm_start_reads_a_folder(tmp_path):
    AutoModel.from_config(config_of("vit")).save_pretrained(tmp_path)
    backbone = load_pretrained_backbone(tmp_path)
    original = AutoModel.from_pretrained(tmp_path).state_dict()
    assert not any(name.startswith("pooler") for name in backbone.state_dict())
    assert all(torch.equal(value, original[name]) for name, value in backbone.state_dict().items())


def test_trying_shapes_leaves_nothing_behind():
    """BEiT keeps tables for all its models; made while shapes are tried they would have shapes and no values."""
    config = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config |= {"image_size": 24, "patch_size": 8, "use_relative_position_bias": True}
    resolve_pooling(BeitConfig(**config), "auto")
    index = BeitRelativePositionBias.generate_relative_position_index((3, 3))
    assert index.device.type == "cpu" and index.max() == 27
