import pytest
from transformers import AutoConfig, CLIPConfig

from lejepa_hf import LeJEPAConfig, LeJEPAForPreTraining
from lejepa_hf.model.foreign_settings import refuse_foreign_settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("checkpoint_path", "weights.pth"), ("pretrained", True), ("pretrained_cfg", {"file": "weights.pth"}),
        ("pretrained_cfg_overlay", {"url": "http://127.0.0.1/weights.pth"}), ("cache_dir", "elsewhere"),
    ],
)  # fmt: skip
def test_a_config_of_timm_names_no_files(name, value):
    pytest.importorskip("timm")
    config = AutoConfig.for_model("timm_wrapper", architecture="resnet10t", model_args={name: value})
    with pytest.raises(ValueError, match=f"`model_args` of the timm model names `{name}` .*Remove the key"):
        refuse_foreign_settings(config)
    config.model_args = {"in_chans": 1, name: None}
    refuse_foreign_settings(config)


KERNELS = ["me/kernel", "me/kernel@main:forward", "paged|me/kernel", "a|me/x|kernels-community/y"]


@pytest.mark.parametrize("name", KERNELS)
def test_attention_from_a_repository_is_not_run(tiny_vit, name):
    config = AutoConfig.for_model(**tiny_vit, attn_implementation=name)
    with pytest.raises(ValueError, match="is a repository with compiled code, which is not run here: use `sdpa`"):
        refuse_foreign_settings(config)
    with pytest.raises(ValueError, match="is a repository with compiled code"):
        LeJEPAForPreTraining(LeJEPAConfig(backbone_config=config, projector_dims=[8]))


def test_parts_of_a_model_too():
    config = CLIPConfig()
    refuse_foreign_settings(config)
    config.vision_config._attn_implementation = "me/kernel"
    with pytest.raises(ValueError, match="'me/kernel'"):
        refuse_foreign_settings(config)


@pytest.mark.parametrize("name", [None, "eager", "sdpa", "flash_attention_2", "kernels-community/flash-attn2"])
def test_known_attention(tiny_vit, name):
    config = AutoConfig.for_model(**tiny_vit)
    config._attn_implementation = name
    refuse_foreign_settings(config)
