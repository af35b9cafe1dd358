import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.decomposition import PCA
from transformers import AutoConfig, AutoModel

from lejepa_hf.evaluation.feature_extractor import FeatureExtractor
from lejepa_hf.evaluation.patch_maps import (
    PrincipalColours,
    class_attention,
    enlarged_pixels,
    legible_patch_maps,
    patch_maps,
)
from lejepa_hf.hub.export import build_processor


def principal_colours(maps: torch.Tensor) -> torch.Tensor:
    return PrincipalColours(maps)(maps)


@pytest.fixture
def images() -> list[Image.Image]:
    pixels = torch.randint(256, (3, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return [Image.fromarray(image.numpy()) for image in pixels]


def extractor_of(config: dict, **settings) -> FeatureExtractor:
    torch.manual_seed(0)
    encoder = AutoModel.from_config(AutoConfig.for_model(**config), **settings)
    return FeatureExtractor(encoder, build_processor(16, crop_ratio=1.0))


@pytest.mark.parametrize("enlarge", [1, 3])
def test_tokens_of_a_vit_lie_row_by_row(tiny_vit, images, enlarge):
    extractor = extractor_of(tiny_vit)
    maps = patch_maps(extractor, images, enlarge)
    side = 16 * enlarge
    assert maps.shape == (3, 32, side // 4, side // 4)
    size = {"height": side, "width": side}
    pixels = extractor.processor(images, return_tensors="pt", size={"shortest_edge": side}, crop_size=size)
    with torch.no_grad():
        tokens = extractor.encoder(**pixels, interpolate_pos_encoding=True).last_hidden_state[:, 1:]
    torch.testing.assert_close(maps, tokens.transpose(1, 2).reshape(maps.shape))


def test_maps_large_enough_to_see_something(tiny_vit, images):
    extractor = extractor_of(tiny_vit)
    maps, enlarge = legible_patch_maps(extractor, images)
    assert enlarge == 3 and torch.equal(maps, patch_maps(extractor, images, 3))
    pytest.importorskip("timm")
    arguments = {"img_size": 16, "patch_size": 4, "depth": 1}
    extractor = extractor_of(
        {"model_type": "timm_wrapper", "architecture": "vit_tiny_patch16_224", "model_args": arguments}
    )
    maps, enlarge = legible_patch_maps(extractor, images)
    assert enlarge == 1 and maps.shape[2:] == (4, 4)


def test_a_feature_map_of_a_resnet(tiny_resnet, images):
    extractor = extractor_of(tiny_resnet)
    small, large = patch_maps(extractor, images), patch_maps(extractor, images, 2)
    assert small.shape[:2] == large.shape[:2] == (3, 16)
    assert large.shape[2] == 2 * small.shape[2]


def test_sizes_that_are_not_taken(tiny_vit, images):
    with pytest.raises(ValueError, match="`enlarge` must be at least 1, got 0"):
        patch_maps(extractor_of(tiny_vit), images, 0)
    pytest.importorskip("timm")
    arguments = {"img_size": 16, "patch_size": 4, "depth": 1}
    extractor = extractor_of(
        {"model_type": "timm_wrapper", "architecture": "vit_tiny_patch16_224", "model_args": arguments}
    )
    with pytest.raises(
        ValueError, match=r"`enlarge` 2: this timm_wrapper encoder does not accept images of 32 x 32 pixels"
    ):
        patch_maps(extractor, images, 2)


def test_colours_are_scikit_learns_components():
    maps = torch.randn(4, 10, 6, 5, generator=torch.Generator().manual_seed(0))
    maps[:, 0] *= 5
    maps[:, 1] *= 3
    colours = principal_colours(maps)
    assert colours.shape == (4, 6, 5, 3)
    assert colours.min() >= 0 and colours.max() <= 1
    expected = PCA(3).fit_transform(maps.movedim(1, -1).reshape(-1, 10).numpy())
    for component in range(3):
        found = colours.reshape(-1, 3)[:, component].numpy()
        inside = (found > 0) & (found < 1)
        assert inside.mean() > 0.9
        assert abs(np.corrcoef(found[inside], expected[inside, component])[0, 1]) > 0.999


def test_colours_found_once_stay_the_same_for_other_images():
    maps = torch.randn(4, 10, 6, 5, generator=torch.Generator().manual_seed(0))
    colours = PrincipalColours(maps)
    torch.testing.assert_close(colours(maps[2:3]), principal_colours(maps)[2:3])
    assert not torch.allclose(principal_colours(maps[2:3]), principal_colours(maps)[2:3], atol=0.1)
    assert colours(maps[:, :, :2, :3]).shape == (4, 2, 3, 3)


def test_colours_do_not_depend_on_sign_and_scale():
    maps = torch.randn(2, 8, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(principal_colours(maps), principal_colours(7 * maps + 3))
    assert torch.equal(principal_colours(maps), principal_colours(maps))


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_features_of_few_dimensions(dim):
    line = torch.arange(16.0).view(1, 1, 4, 4)
    colours = principal_colours(line * torch.ones(dim).view(1, dim, 1, 1))
    assert colours[..., 1:].eq(0.5).all()
    assert colours[..., 0].unique().numel() > 10
    assert principal_colours(torch.ones(1, dim, 4, 4)).eq(0.5).all()


REGISTERS = {"model_type": "dinov2_with_registers", "num_register_tokens": 3, "mlp_ratio": 2}


@pytest.mark.parametrize("enlarge", [1, 2])
@pytest.mark.parametrize(("more", "others"), [({}, 1), (REGISTERS, 4)])
def test_what_transformers_says_of_the_last_block(tiny_vit, images, more, others, enlarge):
    extractor = extractor_of(tiny_vit | more)
    side = 4 * enlarge
    found = class_attention(extractor, images, enlarge)
    assert found.shape == (3, side, side)

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


def test_thin_images_are_not_enlarged_without_limit(monkeypatch, tiny_vit):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 16 * 16 * 50)
    extractor, thin = extractor_of(tiny_vit), Image.new("RGB", (2, 40))
    assert enlarged_pixels(extractor, [thin]).shape[-2:] == (16, 16)
    with pytest.raises(Image.DecompressionBombError, match="32 x 640 pixels after the resize of 2 x 40"):
        enlarged_pixels(extractor, [thin], 2)
