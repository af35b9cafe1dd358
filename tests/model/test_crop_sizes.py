import pytest
from families import config_of
from transformers import AutoConfig

from lejepa_hf.model.backbone import prepare_config
from lejepa_hf.model.crop_sizes import accepted_crop_sizes


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


def test_a_size_that_fits_no_table_is_replaced_by_the_native_one():
    assert accepted(AutoConfig.for_model("timm_wrapper", architecture="pit_ti_224"), 32) == 224


def test_windows_want_multiples():
    config = {"architecture": "maxvit_rmlp_pico_rw_256", "model_args": {"img_size": 64, "depths": [1] * 4}}
    assert accepted(AutoConfig.for_model("timm_wrapper", **config), 100) == 128
