import pytest
import torch
from families import config_of

from lejepa_hf.model.backbone import build_backbone
from lejepa_hf.model.native_class import as_native_class


def test_a_vit_gets_an_identity_pooler_and_the_original_does_not_change():
    backbone = build_backbone(config_of("vit")).eval()
    before = backbone.config.to_dict()
    native = as_native_class(backbone, "cls")
    pixels = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(native(pixels).pooler_output, backbone(pixels).last_hidden_state[:, 0])
    assert backbone.config.to_dict() == before and not hasattr(backbone.config, "embedding_pooling")


@pytest.mark.parametrize(("family", "pooling"), [("resnet", "pooler"), ("vit", "mean")])
def test_the_config_records_how_the_embedding_is_made(family, pooling):
    backbone = build_backbone(config_of(family)).eval()
    native = as_native_class(backbone, pooling)
    assert native.config.embedding_pooling == pooling and type(native) is type(backbone) and not native.training
    assert all(torch.equal(native.state_dict()[name], value) for name, value in backbone.state_dict().items())
