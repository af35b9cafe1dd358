import torch
from families import config_of

from lejepa_hf.model.backbone import build_backbone
from lejepa_hf.model.native_class import as_standalone


def test_standalone_vit_has_an_identity_pooler_and_leaves_the_original_alone():
    backbone = build_backbone(config_of("vit")).eval()
    before = backbone.config.to_dict()
    standalone = as_standalone(backbone, "cls")
    pixels = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(standalone(pixels).pooler_output, backbone(pixels).last_hidden_state[:, 0])
    assert backbone.config.to_dict() == before and not hasattr(backbone.config, "embedding_pooling")
