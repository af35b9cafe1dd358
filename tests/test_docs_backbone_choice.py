"""Every YAML block of docs/backbone_choice.md is a recipe that builds, with views that fit as they are."""

import pytest
import torch
from doc_blocks import blocks_of

from lejepa_hf.runs.initial_model import build_config, build_model
from lejepa_hf.runs.recipes import parse_recipe
from lejepa_hf.runs.resolving import resolve

BLOCKS = blocks_of("docs/backbone_choice.md", "yaml")


def test_the_page_has_blocks():
    assert len(BLOCKS) == 6


@pytest.mark.slow
@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_blocks(block, tmp_path):
    (tmp_path / "recipe.yaml").write_text(f"dataset: digits\nmax_steps: 1\n{block.code}", encoding="utf-8")
    recipe = parse_recipe(tmp_path / "recipe.yaml", ["--use_cpu"])
    with torch.device("meta"):
        build_model(build_config(recipe.model))
    assert resolve(recipe).data.global_crop_size == recipe.data.global_crop_size
