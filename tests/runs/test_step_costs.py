from functools import partial
from pathlib import Path

import pytest
import torch
from small_recipe import on_meta, small_recipe

from lejepa_hf.runs.initial_model import build_config, build_model
from lejepa_hf.runs.recipes import parse_recipe
from lejepa_hf.runs.step_costs import count_activations, count_flops, count_tokens

ROOT = Path(__file__).parents[2]


@pytest.fixture
def recipe(tmp_path):
    return partial(small_recipe, tmp_path)


def test_published_recipe():
    parsed = parse_recipe(ROOT / "recipes/imagenet1k/vit_l14.yaml", ["--use_cpu", "--bf16", "false"])
    model = on_meta(parsed)
    assert count_tokens(model, parsed.data, 224) == 257 and count_tokens(model, parsed.data, 98) == 50
    # 2 operations a parameter and token, and those of attention, of which the tokens have a fortieth
    tokens = 2 * 257 + 6 * 50
    assert count_flops(model, parsed.data) == pytest.approx(2 * 303e6 * tokens, rel=0.05)


def kept_by_a_real_step(recipe, batch: int) -> int:
    """Bytes that a forward pass on the CPU keeps."""
    torch.manual_seed(0)
    model, data = build_model(build_config(recipe.model)).train(), recipe.data
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        views = [(data.num_global_views, data.global_crop_size), (data.num_local_views, data.local_crop_size)]
        embeddings = [model.encoder(torch.randn(batch * n, 3, size, size)).pooler_output for n, size in views]
        output = model.projector(*embeddings)
    assert output.requires_grad
    return sum(storage.nbytes() for pointer, storage in kept.items() if pointer not in weights)


@pytest.mark.parametrize("family", ["vit", "resnet"])
def test_activations_are_those_of_a_real_pass(recipe, tiny_vit, tiny_resnet, family):
    parsed = recipe(tiny_vit if family == "vit" else tiny_resnet)
    real = (kept_by_a_real_step(parsed, 4) - kept_by_a_real_step(parsed, 2)) / 2
    assert count_activations(on_meta(parsed), parsed.data) == pytest.approx(real, rel=0.1)


def test_dropped_tokens_cost_nothing(recipe, tiny_vit):
    plain, half = recipe(tiny_vit), recipe(tiny_vit, "--token_drop_rate", "0.5", "--token_drop_views", "global")
    model = on_meta(half)
    assert [count_tokens(model, half.data, size, kind) for size, kind in ((16, "global"), (8, "local"))] == [9, 5]
    fewer = 1 - 2 * 8 / (2 * 17 + 6 * 5)  # two global views lose 8 patches each
    assert count_flops(model, half.data) < (fewer + 0.05) * count_flops(on_meta(plain), plain.data)
    assert count_activations(model, half.data) < (fewer + 0.05) * count_activations(on_meta(plain), plain.data)


def test_feature_maps_have_places(recipe, tiny_resnet):
    assert count_tokens(on_meta(recipe(tiny_resnet)), recipe(tiny_resnet).data, 16) == 4  # stride 8 in all


def test_gradient_checkpointing_keeps_less(recipe, tiny_vit):
    parsed = recipe(tiny_vit | {"num_hidden_layers": 4})
    model = on_meta(parsed)
    whole = count_activations(model, parsed.data)
    model.gradient_checkpointing_enable()
    assert count_activations(model, parsed.data) < 0.6 * whole
