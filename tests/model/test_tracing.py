import pytest
import torch
from families import FAMILIES, config_of
from transformers import AutoConfig, BeitConfig
from transformers.models.beit.modeling_beit import BeitRelativePositionBias

from lejepa_hf import LeJEPAConfig, LeJEPAModel
from lejepa_hf.model.architecture import native_image_size
from lejepa_hf.model.tracing import describe_backbone


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
