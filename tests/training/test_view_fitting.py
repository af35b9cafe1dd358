import logging

import pytest
from transformers import AutoConfig, BitImageProcessor, ViTConfig, ViTModel

from lejepa_hf.runs.recipes import parse_recipe
from lejepa_hf.runs.resolving import resolve

TOKENS = "hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 32"
VIT = f"model_type: vit, image_size: 64, patch_size: 16, {TOKENS}"


@pytest.fixture
def fitted(tmp_path, caplog):
    """Writes a recipe, resolves it, and returns the new one with what was logged."""

    def fit(text: str, *arguments: str):
        path = tmp_path / "recipe.yaml"
        path.write_text(f"dataset: digits\nmax_steps: 2\n{text}")
        recipe = parse_recipe(path, ["--use_cpu", *arguments])
        caplog.clear()
        with caplog.at_level(logging.INFO, "lejepa_hf"):
            resolved = resolve(recipe)
        return resolved, " ".join(record.message for record in caplog.records)

    return fit


def test_crops_are_rounded_and_it_is_said(fitted):
    recipe, said = fitted(f"backbone_config: {{{VIT}}}\nglobal_crop_size: 64\nlocal_crop_size: 30\n")
    assert (recipe.data.global_crop_size, recipe.data.local_crop_size) == (64, 32)
    assert "`local_crop_size` 30 becomes 32, the nearest size that the vit backbone accepts" in said
    assert recipe.resolved()["local_crop_size"] == 32, "what repeats the run"


def test_what_fits_is_left_alone_in_silence(fitted):
    recipe, said = fitted(f"backbone_config: {{{VIT}}}\nglobal_crop_size: 64\nlocal_crop_size: 32\n")
    assert (recipe.data.global_crop_size, recipe.data.local_crop_size, said) == (64, 32, "")


def test_a_backbone_of_one_size_has_all_views_at_it(fitted):
    config = f"model_type: aimv2_vision_model, image_size: 64, patch_size: 16, {TOKENS}"
    recipe, said = fitted(f"backbone_config: {{{config}}}\nglobal_crop_size: 96\nlocal_crop_size: 32\n")
    assert (recipe.data.global_crop_size, recipe.data.local_crop_size) == (64, 64)
    assert "All views are 64 x 64 pixels: the backbone does not accept both sizes." in said


def test_local_crops_stay_below_global_ones(fitted):
    """Of the sizes near 14 none leaves windows of 8 whole; the backbone's own, 64, is more than the global crops."""
    config = "model_type: swin, image_size: 64, patch_size: 2, window_size: 8, embed_dim: 8, depths: [1, 1]"
    text = f"backbone_config: {{{config}, num_heads: [1, 1]}}\nblur_kernel_size: 5\n"
    recipe, _ = fitted(f"{text}global_crop_size: 32\nlocal_crop_size: 14\n")
    assert (recipe.data.global_crop_size, recipe.data.local_crop_size) == (32, 32)


@pytest.mark.parametrize("channels", [1, 5])
def test_normalisation_follows_the_channels(fitted, channels):
    recipe, said = fitted(
        f"backbone_config: {{{VIT}, num_channels: {channels}}}\nglobal_crop_size: 64\nlocal_crop_size: 32\n"
    )
    assert recipe.data.image_mean == recipe.data.image_std == [0.5] * channels
    assert f"{channels} channels" in said


def test_channels_that_disagree(fitted):
    with pytest.raises(ValueError, match="num_channels` is 1, but `image_mean` names 3 channels"):
        fitted(f"backbone_config: {{{VIT}, num_channels: 1}}\nimage_mean: [0.1, 0.2, 0.3]\n")


def test_a_warm_start_brings_its_normalisation(fitted, tmp_path):
    config = ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=32)
    ViTModel(config).save_pretrained(tmp_path / "checkpoint")
    text = f"pretrained_backbone: {tmp_path / 'checkpoint'}\nglobal_crop_size: 32\nlocal_crop_size: 16\n"
    assert fitted(text)[0].data.image_mean == [0.485, 0.456, 0.406], "no processor beside the weights: ImageNet's"
    BitImageProcessor(image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6]).save_pretrained(tmp_path / "checkpoint")
    recipe, said = fitted(text)
    assert (recipe.data.image_mean, recipe.data.image_std) == ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])
    assert "follow from the backbone" in said
    assert fitted(text, "--image_mean", "0.7", "0.7", "0.7")[0].data.image_mean == [0.7] * 3, "what is given is obeyed"


def test_a_timm_checkpoint_brings_its_normalisation():
    from lejepa_hf.training.view_fitting import _normalisation

    known = {"mean": [0.5, 0.5, 0.4], "std": [0.2, 0.2, 0.2]}
    config = AutoConfig.for_model("timm_wrapper", architecture="resnet18", pretrained_cfg=known)
    assert _normalisation(config, "timm/resnet18") == ([0.5, 0.5, 0.4], [0.2, 0.2, 0.2])
    assert _normalisation(config, None) is None, "fresh weights were trained with nothing"
