"""A recipe is resolved once, into a new one; nothing in a run changes the old or the new one."""

import copy
from dataclasses import FrozenInstanceError, fields

import pytest
import torch
import yaml

from lejepa_hf.runs.pretraining import build
from lejepa_hf.runs.recipes import Recipe, parse_recipe
from lejepa_hf.runs.resolving import resolve

TEXT = """
dataset: digits
backbone_config: {model_type: vit, hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2,
                  intermediate_size: 32, image_size: 32, patch_size: 8, num_channels: 1}
projector_dims: [16, 8]
global_crop_size: 32
local_crop_size: 15
blur_kernel_size: 5
per_device_train_batch_size: 8
dataloader_num_workers: 0
num_train_epochs: 1
use_cpu: true
report_to: [none]
"""


@pytest.fixture
def recipe(tmp_path):
    def write(*arguments: str, text: str = TEXT) -> Recipe:
        (tmp_path / "recipe.yaml").write_text(text)
        return parse_recipe(tmp_path / "recipe.yaml", ["--output_dir", str(tmp_path / "run"), *arguments])

    return write


def values_of(recipe: Recipe) -> dict:
    """All that the parts hold but the Trainer's arguments, which the Trainer may complete while it is built."""
    return copy.deepcopy({"model": vars(recipe.model), "data": vars(recipe.data), "given": recipe.given})


def test_what_was_left_open_is_decided_in_a_new_recipe(recipe, tmp_path):
    asked = recipe()
    before = values_of(asked)
    resolved = resolve(asked)
    assert values_of(asked) == before
    assert (asked.data.local_crop_size, resolved.data.local_crop_size) == (15, 16)
    assert (len(asked.data.image_mean), resolved.data.image_mean) == (3, [0.5])
    assert resolved.folder == tmp_path / "run" and resolved.earlier is resolved.checkpoint is None
    assert resolved.config.backbone_config.hidden_size == 32


def test_a_resolved_recipe_that_was_written_is_resolved(recipe, tmp_path):
    resolved = resolve(recipe())
    written = yaml.safe_dump(resolved.resolved())
    again = resolve(recipe(text=written))
    assert again.model == resolved.model and again.data == resolved.data


def test_building_a_run_changes_no_recipe(recipe):
    asked = recipe("--resume")
    before, resume = values_of(asked), asked.training.resume
    resolved = resolve(asked)
    complete, config = values_of(resolved), resolved.config.to_dict()
    trainer, _ = build(resolved)
    assert values_of(asked) == before, "nothing changes a recipe"
    assert asked.training.resume == resume == "auto"
    assert values_of(resolved) == complete and resolved.config.to_dict() == config
    assert trainer.model.config is not resolved.config
    assert trainer.data_collator.transform.local_crop_size == 16


def test_equal_recipes_make_equal_models(recipe):
    (first, _), (second, _) = build(resolve(recipe())), build(resolve(recipe()))
    for one, other in zip(first.model.parameters(), second.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_recipes_are_frozen(recipe):
    resolved = resolve(recipe())
    for part in (resolved, resolved.model, resolved.data):
        with pytest.raises(FrozenInstanceError):
            setattr(part, fields(part)[0].name, None)


def test_resume_stands_for_a_complete_checkpoint(recipe, tmp_path):
    assert resolve(recipe("--resume")).checkpoint is None, "nothing to resume yet: a run starts from its first step"
    trainer, _ = build(resolve(recipe("--max_steps", "1", "--save_steps", "1", "--monitors", "health")))
    trainer.train()
    for given in ("auto", str(tmp_path / "run" / "checkpoint-1")):
        asked = recipe("--resume", given)
        resolved = resolve(asked)
        assert resolved.checkpoint == tmp_path / "run" / "checkpoint-1"
        assert asked.training.resume == given
        assert resolved.arguments()["resume"] == str(tmp_path / "run" / "checkpoint-1")
        assert "resume" not in resolved.resolved()
    with pytest.raises(ValueError, match="`resume` 'runs/none' is"):
        resolve(recipe("--resume", "runs/none"))


def test_unknown_protocols_are_refused(recipe):
    with pytest.raises(ValueError, match="clustering unknown"):
        resolve(recipe("--eval_protocols", "clustering"))
