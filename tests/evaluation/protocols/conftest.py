import pytest
import torch
from transformers import AutoConfig, AutoModel

from lejepa_hf.hub.export import build_processor


@pytest.fixture
def vit():
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "vit", image_size=16, patch_size=8, hidden_size=12, num_hidden_layers=5, num_attention_heads=2,
        intermediate_size=24,
    )  # fmt: skip
    return AutoModel.from_config(config, add_pooling_layer=False).eval()


@pytest.fixture
def resnet(tiny_resnet):
    torch.manual_seed(0)
    return AutoModel.from_config(AutoConfig.for_model(**tiny_resnet)).eval()


@pytest.fixture
def processor():
    return build_processor(16, crop_ratio=1.0)
