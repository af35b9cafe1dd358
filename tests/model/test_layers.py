from dataclasses import dataclass

import pytest
import torch
from transformers import AutoConfig, AutoModel
from transformers.utils import ModelOutput

from lejepa_hf.model.layers import (
    count_layers,
    count_prefix_tokens,
    feature_map,
    final_states,
    forward_layers,
    has_class_token,
    patch_tokens,
    pool,
)

TOKENS = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 16, "patch_size": 4}
TOKENS |= {"intermediate_size": 64}
STAGES = {"hidden_sizes": [8, 16, 16, 24], "depths": [1, 1, 1, 2]}
# config, side of the images, tokens before the patches or None for a feature map, rows of the grid, layers
FAMILIES = {
    "vit": (TOKENS, 16, 1, 4, 3),
    "deit": (TOKENS, 16, 2, 4, 3),
    "ijepa": (TOKENS, 16, 0, 4, 3),
    "beit": (TOKENS, 16, 1, 4, 3),
    "dinov2": (TOKENS, 16, 1, 4, 3),
    "dinov2_with_registers": (TOKENS | {"num_register_tokens": 4}, 16, 5, 4, 3),
    # a grid so small that there are more registers than patches
    "dinov3_vit": (TOKENS | {"num_register_tokens": 8}, 8, 9, 2, 3),
    "clip_vision_model": (TOKENS, 16, 1, 4, 3),
    "siglip_vision_model": (TOKENS, 16, 0, 4, 3),
    "swin": (
        {"embed_dim": 8, "depths": [1, 2], "num_heads": [2, 2], "image_size": 32, "patch_size": 2, "window_size": 4},
        32, 0, 8, 3,
    ),
    "dinov3_convnext": (STAGES, 64, 1, 2, 5),
    "convnextv2": (STAGES, 64, None, 2, 5),
    "resnet": (
        {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 2], "layer_type": "basic"}, 64, None, 8, 3,
    ),
    "efficientnet": (
        {"width_coefficient": 0.2, "depth_coefficient": 0.2, "hidden_dim": 256, "image_size": 64}, 64, None, 2, 7,
    ),
}  # fmt: skip
SMALL_VIT = {"img_size": 32, "depth": 3, "embed_dim": 48, "num_heads": 2}
TIMM = {
    "vit_tiny_patch16_224": (SMALL_VIT, 32, 1, 2, 3),
    "vit_tiny_patch16_224 with registers": (SMALL_VIT | {"reg_tokens": 4}, 32, 5, 2, 3),
    "deit_tiny_distilled_patch16_224": (SMALL_VIT, 32, 2, 2, 3),
    "resnet18": ({}, 64, None, 2, 8),
    # its maps have their channels last
    "swin_tiny_patch4_window7_224": (
        {"img_size": 64, "window_size": 2, "embed_dim": 8, "depths": (1, 1, 1, 2), "num_heads": (1, 1, 1, 2)},
        64, None, 2, 5,
    ),
}  # fmt: skip


def build(family: str) -> tuple:
    """A backbone with random weights, norms and class tokens, and its expected layers and tokens."""
    if family in FAMILIES:
        config, *known = FAMILIES[family]
        config = AutoConfig.for_model(family, **config)
    else:
        arguments, *known = TIMM[family]
        architecture = family.split()[0]
        config = AutoConfig.for_model("timm_wrapper", architecture=architecture, num_classes=0, model_args=arguments)
    torch.manual_seed(0)
    backbone = AutoModel.from_config(config).eval()
    with torch.no_grad():
        for parameter in backbone.parameters():
            if parameter.ndim == 1:  # a norm that left everything as it is would be no norm
                parameter.add_(0.2 * torch.randn_like(parameter))
    return backbone, *known


def pixels(size: int) -> torch.Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("family", [*FAMILIES, *TIMM])
def test_patches_of_the_families(family):
    backbone, size, prefix, rows, _ = build(family)
    with torch.no_grad():
        outputs, (state,) = forward_layers(backbone, pixels(size), 1)
    patches, image = patch_tokens(backbone, state, (size, size)), (size, size)
    assert patches.shape[:2] == (2, rows * rows)
    grid = feature_map(backbone, state, image)
    assert grid.shape == (2, patches.shape[2], rows, rows)
    torch.testing.assert_close(grid[:, :, 0, 1], patches[:, 1])  # row by row
    if prefix is None:
        assert state.ndim == 4 and not has_class_token(backbone, state, image)
        pooled = outputs.pooler_output.flatten(1)
        if family in ("resnet", "resnet18", "swin_tiny_patch4_window7_224"):  # whose pooled output is the mean alone
            torch.testing.assert_close(patches.mean(1), pooled)
    else:
        assert count_prefix_tokens(backbone, state.shape[1], image) == prefix
        assert has_class_token(backbone, state, image) == (prefix > 0)
        assert torch.equal(patches, outputs.last_hidden_state[:, prefix:])


@pytest.mark.parametrize("family", [*FAMILIES, *TIMM])
def test_last_layers_of_the_families(family):
    backbone, size, *_, layers = build(family)
    assert count_layers(backbone) == layers
    with torch.no_grad():
        plain = backbone(pixels(size)).last_hidden_state
        outputs, states = forward_layers(backbone, pixels(size), 2)
        assert not any(module._forward_hooks for module in backbone.modules())
        alone = forward_layers(backbone, pixels(size), 1)[1][0]
    assert torch.equal(outputs.last_hidden_state, plain)
    assert len(states) == 2 and torch.equal(states[1], alone)
    assert states[0].shape[0] == 2 and not torch.equal(states[0].flatten()[:8], states[1].flatten()[:8])


@pytest.mark.parametrize(
    ("family", "norm"),
    [("vit", "layernorm"), ("dinov2", "layernorm"), ("dinov3_vit", "norm"), ("siglip_vision_model", "post_layernorm")],
)
def test_earlier_layers_go_through_the_final_norm(family, norm):
    backbone, size, *_ = build(family)
    with torch.no_grad():
        hidden = backbone(pixels(size), output_hidden_states=True).hidden_states
        earlier, last = forward_layers(backbone, pixels(size), 2)[1]
        torch.testing.assert_close(earlier, getattr(backbone, norm)(hidden[-2]))
        assert torch.equal(last, backbone(pixels(size)).last_hidden_state)


@pytest.mark.parametrize("registers", [0, 4])
def test_layers_of_timm_are_those_it_gives_itself(registers):
    backbone, size, *_ = build("vit_tiny_patch16_224 with registers" if registers else "vit_tiny_patch16_224")
    with torch.no_grad():
        expected = backbone.timm_model.get_intermediate_layers(pixels(size), n=3, norm=True, return_prefix_tokens=True)
        found = forward_layers(backbone, pixels(size), 3)[1]
    for state, (patches, prefix) in zip(found, expected, strict=True):
        torch.testing.assert_close(state, torch.cat([prefix, patches], dim=1))


def test_layers_without_a_final_norm_stay_as_they_are():
    backbone, size, *_ = build("clip_vision_model")
    with torch.no_grad():
        hidden = backbone(pixels(size), output_hidden_states=True).hidden_states
        found = forward_layers(backbone, pixels(size), 3)[1]
    for state, expected in zip(found, hidden[-3:], strict=True):
        torch.testing.assert_close(state, expected)


@pytest.mark.parametrize("number", [0, 4])
def test_more_layers_than_blocks_are_refused(number):
    backbone, size, *_ = build("vit")
    with pytest.raises(ValueError, match=f"`layers` must be 1 to 3 for this vit encoder, got {number}"):
        forward_layers(backbone, pixels(size), number)


@pytest.mark.parametrize(
    ("family", "image", "num_tokens", "prefix", "grid"),
    [
        ("vit", (16, 24), 25, 1, (4, 6)),
        ("vit", (18, 19), 17, 1, (4, 4)),  # what is left of a patch is cut off
        ("vit", (8, 8), 5, 1, (2, 2)),
        ("dinov2_with_registers", (8, 8), 9, 5, (2, 2)),  # nine would be a square
        ("swin", (32, 64), 128, 0, (8, 16)),  # of 16 x 32 patches
        ("dinov3_convnext", (64, 128), 9, 1, (2, 4)),
    ],
)
def test_grids_of_other_images(family, image, num_tokens, prefix, grid):
    backbone = build(family)[0]
    state = torch.arange(float(num_tokens))[None, :, None].repeat(2, 1, 3)
    assert count_prefix_tokens(backbone, num_tokens, image) == prefix
    found = feature_map(backbone, state, image)
    assert found.shape == (2, 3, *grid)
    assert found[0, 0].flatten().tolist() == list(range(prefix, num_tokens))


def test_registers_alone_are_no_class_token():
    config = {"architecture": "vit_tiny_patch16_224", "num_classes": 0}
    arguments = SMALL_VIT | {"reg_tokens": 1, "class_token": False, "global_pool": "avg"}
    backbone = AutoModel.from_config(AutoConfig.for_model("timm_wrapper", **config, model_args=arguments)).eval()
    with torch.no_grad():
        state = forward_layers(backbone, pixels(32), 1)[1][0]
    assert state.shape[1] == 5 and count_prefix_tokens(backbone, 5, (32, 32)) == 1
    assert not has_class_token(backbone, state, (32, 32))


def test_a_block_of_class_tokens_has_no_patches():
    backbone = build("vit_tiny_patch16_224")[0]
    with pytest.raises(ValueError, match="1 class tokens and no patches"):
        patch_tokens(backbone, torch.zeros(2, 1, 48), (32, 32))


def test_patches_that_form_no_grid_are_refused():
    backbone = build("vit_tiny_patch16_224")[0]
    with pytest.raises(ValueError, match="6 patch tokens of a timm_wrapper encoder do not form a grid"):
        feature_map(backbone, torch.zeros(2, 7, 48), (32, 32))


def test_earlier_blocks_with_their_channels_last():
    """The last map of TinyViT has channels first, earlier ones have them last."""
    arguments = {"embed_dims": (8, 8, 16, 24), "num_heads": (1, 1, 2, 3), "depths": (1, 1, 1, 2)}
    arguments |= {"window_sizes": (2, 2, 2, 2)}
    config = {"architecture": "tiny_vit_5m_224", "num_classes": 0, "model_args": arguments}
    backbone = AutoModel.from_config(AutoConfig.for_model("timm_wrapper", **config)).eval()
    with torch.no_grad():
        found = forward_layers(backbone, pixels(64), 2)[1]
    assert [state.shape for state in found] == [(2, 24, 2, 2), (2, 24, 2, 2)]


def test_blocks_that_see_images_in_pieces_are_refused():
    config = AutoConfig.for_model("mobilevit", hidden_sizes=[24, 24, 24], neck_hidden_sizes=[8, 8, 8, 8, 8, 8, 40])
    backbone = AutoModel.from_config(config).eval()
    with pytest.raises(ValueError, match="`layers` . cannot be used with this mobilevit encoder, .* set it to 1"):
        forward_layers(backbone, pixels(64), 2)


@dataclass
class Outputs(ModelOutput):
    last_hidden_state: object = None
    pooler_output: object = None
    feature_maps: object = None


def test_tokens_and_feature_maps():
    tokens, feature_map = torch.randn(2, 5, 3), torch.randn(2, 3, 4, 4)
    assert torch.equal(pool(Outputs(last_hidden_state=tokens), "cls"), tokens[:, 0])
    torch.testing.assert_close(pool(Outputs(last_hidden_state=tokens), "mean"), tokens.mean(1))
    torch.testing.assert_close(pool(Outputs(last_hidden_state=feature_map), "mean"), feature_map.mean((2, 3)))
    pooled = torch.randn(2, 3, 1, 1)
    assert torch.equal(pool(Outputs(pooler_output=pooled), "pooler"), pooled[:, :, 0, 0])


def test_the_last_map_of_a_class_for_detectors():
    maps = (torch.randn(2, 3, 8, 8), torch.randn(2, 6, 4, 4))
    assert final_states(Outputs(feature_maps=maps)) is maps[1]
    assert pool(Outputs(feature_maps=maps), "mean").shape == (2, 6)


@pytest.mark.parametrize("states", [None, [torch.ones(1), torch.ones(2)]])
def test_no_states_or_several_branches(states):
    assert final_states(Outputs(last_hidden_state=states)) is None
    with pytest.raises(ValueError, match="`pooling` 'mean' needs tokens or a feature map"):
        pool(Outputs(last_hidden_state=states), "mean")
