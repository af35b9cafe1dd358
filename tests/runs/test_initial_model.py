import pytest
import torch
from transformers import AutoConfig, AutoModel

from lejepa_hf import LeJEPAConfig, LeJEPAForPreTraining
from lejepa_hf.runs.arguments import ModelArguments
from lejepa_hf.runs.initial_model import build_config, build_model


def test_a_fresh_model(tiny_resnet):
    arguments = ModelArguments(backbone_config=tiny_resnet, projector_dims=[16, 8], sigreg_weight=0.1)
    config = build_config(arguments, seed=7)
    assert (config.projector_dims, config.sigreg_weight, config.directions_seed) == ([16, 8], 0.1, 7)
    torch.manual_seed(0)
    first = build_model(config)
    torch.manual_seed(1)
    second = build_model(config)
    assert first.config.to_dict() == config.to_dict() and first.config is not config
    assert not torch.equal(next(first.parameters()), next(second.parameters()))
    assert arguments.backbone_config == tiny_resnet, "nothing changes the arguments"


def test_a_warm_start_has_the_backbone_of_the_checkpoint(tmp_path, tiny_resnet):
    torch.manual_seed(0)
    pretrained = AutoModel.from_config(AutoConfig.for_model(**tiny_resnet))
    pretrained.save_pretrained(tmp_path)
    arguments = ModelArguments(pretrained_backbone=str(tmp_path), projector_dims=[8])
    config = build_config(arguments, seed=3)
    torch.manual_seed(1)
    model = build_model(config, str(tmp_path))
    torch.manual_seed(1)
    again = LeJEPAForPreTraining.from_pretrained_backbone(tmp_path, projector_dims=[8], directions_seed=3)
    assert model.config.to_dict() == again.config.to_dict()
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    for name, value in pretrained.state_dict().items():
        assert torch.equal(model.encoder.backbone.state_dict()[name], value), name
    assert build_config(arguments, seed=3).to_dict() == build_config(arguments, seed=3).to_dict()
    assert build_config(arguments).backbone_config.hidden_sizes == tiny_resnet["hidden_sizes"]


def test_a_continued_model_has_the_earlier_backbone_and_projector(tmp_path, tiny_resnet):
    saved = LeJEPAForPreTraining(LeJEPAConfig(backbone_config=tiny_resnet, projector_dims=[8], num_slices=32))
    saved.save_pretrained(tmp_path)
    arguments = ModelArguments(continue_from="earlier", projector_dims=[8], num_slices=16)
    model = build_model(build_config(arguments, earlier=tmp_path), earlier=tmp_path)
    assert model.config.num_slices == 16, "the objective is the new run's"
    for name, value in saved.state_dict().items():
        assert name.startswith("sigreg") or torch.equal(model.state_dict()[name], value), name


def test_a_recipe_that_continues_must_be_resolved():
    with pytest.raises(AssertionError, match="resolve the recipe first"):
        build_config(ModelArguments(continue_from="earlier"))
