import pytest
import torch
from families import FAMILIES, config_of
from transformers import AutoConfig, BeitConfig
from transformers.models.beit.modeling_beit import BeitRelativePositionBias

from lejepa_hf import LeJEPAConfig, LeJEPAModel
from lejepa_hf.model.architecture import native_image_size
from lejepa_hf.model.backbone import prepare_config
from lejepa_hf.model.tracing import accepted_crop_sizes, describe_backbone


@pytest.mark.parametrize("family", FAMILIES)
def test_automatic_pooling_and_width(family):
    traits = describe_backbone(config_of(family), "auto")
    assert (traits.pooling, traits.embedding_dim) == FAMILIES[family][1:]


@pytest.mark.parametrize("pooling", ["auto", "mean"])
@pytest.mark.parametrize("family", FAMILIES)
def test_no_parameter_is_left_without_a_gradient(family, pooling):
    """Idle parameters depend on the pooling: some classes have a last norm that only one pooling uses."""
    model = LeJEPAModel(LeJEPAConfig(backbone_config=config_of(family), pooling=pooling))
    size = max(32, native_image_size(model.backbone.config) if "image_size" in FAMILIES[family][0] else 64)
    model(torch.randn(2, 3, size, size)).pooler_output.square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert [name for name, p in model.named_parameters() if not p.requires_grad and p.grad is not None] == []
    assert sum(p.requires_grad for p in model.parameters()) > 5


@pytest.mark.parametrize("attention", ["flex_attention", "sdpa"])
def test_tracing_runs_plain_attention_and_leaves_the_config_alone(attention):
    config = config_of("dinov2")
    expected = describe_backbone(config, "auto")
    config._attn_implementation = attention
    assert describe_backbone(config, "auto") == expected
    assert config._attn_implementation == attention


def test_attention_that_timm_does_not_have_is_refused_by_its_name():
    backbone = {"model_type": "timm_wrapper", "architecture": "resnet10t", "attn_implementation": "flex_attention"}
    with pytest.raises(ValueError, match="does not support .* flex_attention"):
        LeJEPAModel(LeJEPAConfig(backbone_config=backbone))


def test_a_backbone_that_returns_tuples_by_default_is_traced():
    config = config_of("resnet")
    expected = describe_backbone(config, "auto")
    config.return_dict = False
    assert describe_backbone(config, "auto") == expected


def test_idle_parameters_by_name():
    assert describe_backbone(config_of("dinov2"), "auto").idle_parameters == {"embeddings.mask_token"}
    assert describe_backbone(config_of("convnextv2"), "auto").idle_parameters == set()
    norm = {"layernorm.weight", "layernorm.bias"}
    assert describe_backbone(config_of("convnextv2"), "mean").idle_parameters == norm


@pytest.mark.parametrize(("family", "pooling"), [("resnet", "cls"), ("ijepa", "pooler"), ("swin", "cls")])
def test_pooling_that_cannot_be_made_lists_what_can(family, pooling):
    with pytest.raises(ValueError, match=f"{pooling!r} cannot be made from a {family}.*mean"):
        describe_backbone(config_of(family), pooling)


def test_a_feature_map_with_channels_last_is_not_averaged_over_its_width():
    config = {"architecture": "swin_tiny_patch4_window7_224"}
    config = AutoConfig.for_model("timm_wrapper", **config, model_args={"embed_dim": 24, "depths": [1, 1, 1, 1]})
    with pytest.raises(ValueError, match="'mean' cannot be made from a timm_wrapper backbone, which offers pooler:"):
        describe_backbone(config, "mean")


def test_a_model_that_takes_no_pixels():
    config = AutoConfig.for_model("bert", hidden_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=20)
    with pytest.raises(ValueError, match="a bert model does not turn pixels into embeddings"):
        describe_backbone(config, "auto")


def test_trying_shapes_leaves_nothing_behind():
    """BEiT shares tables between its models; made on the meta device they would have no values."""
    config = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config |= {"image_size": 24, "patch_size": 8, "use_relative_position_bias": True}
    describe_backbone(BeitConfig(**config), "auto")
    index = BeitRelativePositionBias.generate_relative_position_index((3, 3))
    assert index.device.type == "cpu" and index.max() == 27


def accepted(config, size):
    prepare_config(config)
    return accepted_crop_sizes(config, {"local_crop_size": size})["local_crop_size"]


@pytest.mark.parametrize(
    ("patch", "asked", "taken"), [(16, 98, 96), (16, 96, 96), (14, 30, 28), (4, 10, 8), (32, 20, 32)]
)
def test_crops_are_rounded_to_whole_patches(patch, asked, taken):
    assert accepted(AutoConfig.for_model("vit", image_size=224, patch_size=patch, num_hidden_layers=1), asked) == taken


def test_patches_of_timm_are_known():
    config = {"architecture": "vit_tiny_patch16_224", "model_args": {"depth": 1}}
    assert accepted(AutoConfig.for_model("timm_wrapper", **config), 98) == 96


@pytest.mark.parametrize("size", [33, 47, 64])
def test_a_network_without_patches_takes_what_is_asked(size):
    assert accepted(config_of("resnet"), size) == size


def test_a_crop_that_would_vanish_is_enlarged():
    assert accepted(config_of("convnextv2"), 24) == 32


@pytest.mark.parametrize("size", [32, 96, 128])
def test_a_backbone_of_one_size_gets_its_own(size):
    config = {"hidden_sizes": [32, 48], "num_attention_heads": [2, 3], "depths": [1, 1], "key_dim": [8, 8]}
    down = [["Subsample", 8, 4, 4, 2, 2]]
    assert accepted(AutoConfig.for_model("levit", image_size=64, **config, down_ops=down), size) == 64


@pytest.mark.parametrize("native", [32, 64])
def test_one_patch_does_not_stand_at_all_positions(native):
    tokens = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = AutoConfig.for_model("aimv2_vision_model", image_size=native, patch_size=16, **tokens)
    assert accepted(config, 16) == accepted(config, 48) == native


def test_a_refused_size_does_not_affect_the_next_one():
    """Swin's windows shrink permanently on small images."""
    config = {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4, "patch_size": 2}
    assert accepted(AutoConfig.for_model("swin", image_size=32, **config), 13) == 14


def test_tables_kept_from_one_size_do_not_affect_the_next_one():
    assert accepted(AutoConfig.for_model("timm_wrapper", architecture="tiny_vit_5m_224"), 32) == 32


@pytest.mark.slow
def test_a_size_that_fits_no_table_is_replaced_by_the_native_one():
    assert accepted(AutoConfig.for_model("timm_wrapper", architecture="pit_ti_224"), 32) == 224


@pytest.mark.slow
def test_windows_want_multiples():
    config = {"architecture": "maxvit_rmlp_pico_rw_256", "model_args": {"img_size": 64, "depths": [1] * 4}}
    assert accepted(AutoConfig.for_model("timm_wrapper", **config), 100) == 128
