import importlib
import re

import pytest
from transformers import AutoConfig, ResNetConfig

from lejepa_hf import LeJEPAConfig


def test_round_trip(tmp_path, tiny_vit):
    config = LeJEPAConfig(backbone_config=tiny_vit, projector_dims=[8, 4], sigreg_weight=0.1, t_max=2, pooling="cls")
    config.save_pretrained(tmp_path)
    loaded = LeJEPAConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() == config.to_dict()
    assert loaded.backbone_config.hidden_size == 32 and loaded.backbone_config.model_type == "vit"


def test_backbone_config_forms(tiny_resnet):
    assert LeJEPAConfig(backbone_config=tiny_resnet).backbone_config.hidden_sizes == [8, 16]
    given = ResNetConfig()
    assert LeJEPAConfig(backbone_config=given).backbone_config is given
    assert LeJEPAConfig().backbone_config.model_type == "vit"
    timm = LeJEPAConfig(backbone_config={"model_type": "timm_wrapper", "architecture": "resnet18"})
    assert timm.backbone_config.architecture == "resnet18"


def test_attention_choice_reaches_the_backbone(tiny_vit):
    config = LeJEPAConfig(backbone_config=tiny_vit, attn_implementation="eager")
    assert config.backbone_config._attn_implementation == "eager"


def test_registered(tmp_path, tiny_vit):
    import lejepa_hf.modeling_lejepa  # noqa: F401, registers

    LeJEPAConfig(backbone_config=tiny_vit).save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is LeJEPAConfig


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sigreg_weight", -0.1),
        ("sigreg_weight", 1.5),
        ("num_slices", 0),
        ("num_knots", 1),
        ("t_max", 0.0),
        ("pooling", "max"),
        ("projector_norm", "group"),
        ("sigreg_views", "each"),
        ("statistic", "epps"),
        ("token_drop_rate", 1.0),
        ("token_drop_rate", -0.1),
        ("token_drop_views", "both"),
        ("drop_path_rate", 1.0),
        ("projector_dims", []),
        ("projector_dims", [64, 0]),
    ],
)
def test_out_of_range_names_field_and_value(field, value):
    with pytest.raises(ValueError, match=f"`{field}`") as caught:
        LeJEPAConfig(**{field: value})
    assert repr(value) in str(caught.value)
    config = LeJEPAConfig()
    before = getattr(config, field)
    with pytest.raises(ValueError, match=f"`{field}`.* got "):
        setattr(config, field, value)
    assert getattr(config, field) == before


def test_tuples_are_lists(tiny_vit):
    config = LeJEPAConfig(backbone_config=tiny_vit, projector_dims=(8, 4))
    assert config.projector_dims == [8, 4]
    config.projector_dims = (16, 8)
    assert config.projector_dims == [16, 8]


def test_a_backbone_config_that_is_set_later_is_resolved(tiny_resnet):
    config = LeJEPAConfig()
    config.backbone_config = tiny_resnet
    assert isinstance(config.backbone_config, ResNetConfig)


@pytest.mark.parametrize("former", ["entropy", "moments", "shapiro_wilk", "watson"])
def test_a_statistic_of_version_0_1_is_refused_with_the_way_out(tmp_path, tiny_vit, former):
    LeJEPAConfig(backbone_config=tiny_vit).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(file.read_text(encoding="utf-8").replace('"epps_pulley"', f'"{former}"'), encoding="utf-8")
    with pytest.raises(
        ValueError, match=f"`statistic` must be one of epps_pulley, .*; '{former}' is no longer"
    ) as caught:
        LeJEPAConfig.from_pretrained(tmp_path)
    assert "config.json" in str(caught.value)
    module, _, name = re.search(r"`(lejepa_hf\S+)`", str(caught.value))[1].rpartition(".")
    assert callable(getattr(importlib.import_module(module), name))


def test_wrong_type_is_an_error():
    with pytest.raises(Exception, match="num_slices"):
        LeJEPAConfig(num_slices="many")


@pytest.mark.parametrize(
    ("given", "message"), [({"hidden_size": 8}, "needs a `model_type`"), ({"model_type": "vitt"}, "'vitt'")]
)
def test_backbone_config_errors(given, message):
    with pytest.raises(ValueError, match=message):
        LeJEPAConfig(backbone_config=given)


def test_no_folder_of_this_machine_is_written(tmp_path, tiny_resnet):
    LeJEPAConfig(backbone_config=tiny_resnet).backbone_config.save_pretrained(tmp_path)
    config = LeJEPAConfig(backbone_config=AutoConfig.from_pretrained(tmp_path))
    config.save_pretrained(tmp_path)
    for made in (config, LeJEPAConfig.from_pretrained(tmp_path)):
        assert str(tmp_path) not in made.to_json_string() and str(tmp_path) not in str(made.to_dict())
