"""Shared by the tests of what a run makes after training."""

import json

import pytest
import torch

from lejepa_hf.runs.initial_model import build_config, build_model
from lejepa_hf.runs.recipes import parse_recipe


@pytest.fixture
def untrained(tmp_path, tiny_resnet):
    """A run folder with a model as it was drawn, and its recipe."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "dataset: digits\nuse_cpu: true\nseed: 7\nglobal_crop_size: 16\nlocal_crop_size: 12\nblur_kernel_size: 5\n"
        "projector_dims: [16, 8]\nnum_knots: 4\nt_max: 1.0\n"
        f"backbone_config: {json.dumps(tiny_resnet)}\noutput_dir: {tmp_path}\n"
    )
    recipe = parse_recipe(recipe)
    torch.manual_seed(5)  # not that of the untrained encoder of the evaluation, which would be the same
    build_model(build_config(recipe.model)).save_pretrained(tmp_path / "pretraining")
    return tmp_path, recipe
