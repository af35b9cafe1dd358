import pytest
import torch
from PIL import Image
from transformers import AutoConfig, AutoModel

from lejepa_hf.evaluation.attention_maps import class_attention, feature_norms
from lejepa_hf.evaluation.feature_extractor import FeatureExtractor
from lejepa_hf.evaluation.patch_maps import patch_maps
from lejepa_hf.hub.export import build_processor


@pytest.fixture
def images() -> list[Image.Image]:
    pixels = torch.randint(256, (2, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return [Image.fromarray(image.numpy()) for image in pixels]


def extractor_of(config: dict, **settings) -> FeatureExtractor:
    torch.manual_seed(0)
    encoder = AutoModel.from_config(AutoConfig.for_model(**config), **settings)
    return FeatureExtractor(encoder, build_processor(16, crop_ratio=1.0))


REGISTERS = {"model_type": "dinov2_with_registers", "num_register_tokens": 3, "mlp_ratio": 2}


@pytest.mark.parametrize("enlarge", [1, 2])
@pytest.mark.parametrize(("more", "others"), [({}, 1), (REGISTERS, 4)])
def test_what_transformers_says_of_the_last_block(tiny_vit, images, more, others, enlarge):
    extractor = extractor_of(tiny_vit | more)
    side = 4 * enlarge
    found = class_attention(extractor, images, enlarge)
    assert found.shape == (2, side, side)

    eager = extractor_of(tiny_vit | more, attn_implementation="eager").encoder
    size = {"height": 16 * enlarge, "width": 16 * enlarge}
    pixels = extractor.processor(
        images, return_tensors="pt", size={"shortest_edge": 16 * enlarge}, crop_size=size
    ).pixel_values
    kwargs = {} if more else {"interpolate_pos_encoding": True}
    with torch.no_grad():
        attentions = eager(pixels, output_attentions=True, **kwargs).attentions
    expected = attentions[-1].mean(1)[:, 0, others:]
    torch.testing.assert_close(found.flatten(1), expected)
    assert not torch.allclose(expected, attentions[0].mean(1)[:, 0, others:])  # the blocks can be told apart


def test_the_encoder_stays_as_it_was(tiny_vit, images):
    extractor = extractor_of(tiny_vit)
    before = patch_maps(extractor, images)
    class_attention(extractor, images)
    assert extractor.encoder.config._attn_implementation == "sdpa"
    assert torch.equal(patch_maps(extractor, images), before)


def test_where_there_is_none_to_see(tiny_vit, tiny_resnet, images):
    assert class_attention(extractor_of(tiny_resnet), images) is None
    assert class_attention(extractor_of(tiny_vit, attn_implementation="eager"), images) is None
    no_class_token = tiny_vit | {"model_type": "siglip_vision_model"}
    assert class_attention(extractor_of(no_class_token), images) is None
    pytest.importorskip("timm")
    arguments = {"img_size": 16, "patch_size": 4, "depth": 1}
    timm = {"model_type": "timm_wrapper", "architecture": "vit_tiny_patch16_224", "model_args": arguments}
    assert class_attention(extractor_of(timm), images) is None


def test_norms():
    maps = torch.zeros(1, 2, 1, 3)
    maps[0, :, 0, 1] = torch.tensor([3.0, 4.0])
    assert feature_norms(maps).tolist() == [[[0, 5, 0]]]
