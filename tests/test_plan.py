from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from lejepa_hf.cli import main
from lejepa_hf.plan import count_activations, count_flops, count_tokens, format_plan, make_plan
from lejepa_hf.recipes import parse_recipe
from lejepa_hf.train import build_model

ROOT = Path(__file__).parent.parent
SMALL = ["--use_cpu", "--global_crop_size", "16", "--local_crop_size", "8", "--blur_kernel_size", "5"]


def on_meta(recipe):
    with torch.device("meta"):
        return build_model(recipe.model)


@pytest.fixture
def recipe(tmp_path, tiny_vit):
    def parsed(backbone=tiny_vit, *arguments):
        path = tmp_path / "small.yaml"
        path.write_text(f"dataset: digits\nbackbone_config: {backbone}\nprojector_dims: [32, 8]\nmax_steps: 20\n")
        return parse_recipe(path, [*SMALL, *arguments])

    return parsed


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
    model, data = build_model(recipe.model).train(), recipe.data
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        views = [(data.num_global_views, data.global_crop_size), (data.num_local_views, data.local_crop_size)]
        embeddings = [model.encoder(torch.randn(batch * n, 3, size, size)).pooler_output for n, size in views]
        output = model.projector(torch.cat(embeddings))
    assert output.requires_grad
    return sum(storage.nbytes() for pointer, storage in kept.items() if pointer not in weights)


@pytest.mark.parametrize("family", ["vit", "resnet"])
def test_activations_are_those_of_a_real_pass(recipe, tiny_vit, tiny_resnet, family):
    parsed = recipe(tiny_vit if family == "vit" else tiny_resnet)
    real = (kept_by_a_real_step(parsed, 4) - kept_by_a_real_step(parsed, 2)) / 2
    assert count_activations(on_meta(parsed), parsed.data) == pytest.approx(real, rel=0.1)


def test_dropped_tokens_cost_nothing(recipe, tiny_vit):
    plain, half = recipe(), recipe(tiny_vit, "--token_drop_rate", "0.5", "--token_drop_views", "global")
    model = on_meta(half)
    assert [count_tokens(model, half.data, size, kind) for size, kind in ((16, "global"), (8, "local"))] == [9, 5]
    fewer = 1 - 2 * 8 / (2 * 17 + 6 * 5)  # two global views lose 8 patches each
    assert count_flops(model, half.data) < (fewer + 0.05) * count_flops(on_meta(plain), plain.data)
    assert count_activations(model, half.data) < (fewer + 0.05) * count_activations(on_meta(plain), plain.data)


def test_feature_maps_have_places(recipe, tiny_resnet):
    assert count_tokens(on_meta(recipe(tiny_resnet)), recipe(tiny_resnet).data, 16) == 4  # stride 8 in all


def test_plan_of_a_small_run(recipe):
    parsed = recipe({"model_type": "resnet", "layer_type": "basic", "embedding_size": 8, "hidden_sizes": [8, 16],
                     "depths": [1, 1]}, "--max_steps", "-1", "--num_train_epochs", "3")  # fmt: skip
    plan = make_plan(parsed, 50)
    assert (plan.images, plan.global_batch, plan.steps) == (1347, 8, 506)  # 3 * 1347 / 8, rounded up
    model = build_model(parsed.model)
    assert plan.encoder_parameters == sum(p.numel() for p in model.encoder.parameters())
    assert plan.state_bytes == 16 * sum(p.numel() for p in model.parameters())
    assert plan.view_bytes == 8 * 4 * 3 * (2 * 16**2 + 6 * 8**2)
    assert not plan.training_is_estimated
    assert plan.training_images_per_second > 0 and plan.images_per_second_per_worker > 0
    text = format_plan(plan)
    assert "1,347" in text and "506 steps of 8" in text and "measured" in text


def test_verdict_follows_the_slower_side(recipe, tiny_resnet):
    plan = replace(
        make_plan(recipe(tiny_resnet), 10),
        device="cuda", workers=4, cores=8, images_per_second_per_worker=100.0, training_images_per_second=1000.0,
    )  # fmt: skip
    assert plan.data_wait_fraction == pytest.approx(0.6) and plan.images_per_second == 400
    assert "will wait for data 60% of the time: it needs 10 workers for 4" in format_plan(plan)
    fast = replace(plan, training_images_per_second=100.0)
    assert fast.data_wait_fraction == 0 and "The data will wait: it comes 4.0 times" in format_plan(fast)
    alone = replace(plan, workers=0)
    assert alone.images_per_second == pytest.approx(1 / (1 / 100 + 1 / 1000))
    assert "Views are cut between steps, 91%" in format_plan(alone)
    assert replace(plan, workers=16).data_images_per_second == 800  # no more than there are cores
    assert "It will not fit" in format_plan(replace(plan, device_bytes=1))
    assert plan.seconds == pytest.approx(20 * 8 / 400)


def test_long_steps_are_estimated(recipe, tiny_resnet, monkeypatch):
    monkeypatch.setattr("lejepa_hf.plan._LONGEST_STEP", 0.0)
    plan = make_plan(recipe(tiny_resnet), 10)
    assert plan.training_is_estimated and "estimated from the operations" in format_plan(plan)


def test_command(capsys, recipe, tmp_path):
    recipe()
    arguments = [str(tmp_path / "small.yaml"), "--images", "20", *SMALL, "--per_device_train_batch_size", "4"]
    assert main(["plan", *arguments]) == 0
    assert "20 steps of 4 images" in capsys.readouterr().out
    assert main(["plan", str(tmp_path / "small.yaml"), "--sigreg_wait", "1"]) == 2
    assert "Did you mean `sigreg_weight`?" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_gradient_checkpointing_keeps_less(recipe, tiny_vit):
    parsed = recipe(tiny_vit | {"num_hidden_layers": 4})
    model = on_meta(parsed)
    whole = count_activations(model, parsed.data)
    model.gradient_checkpointing_enable()
    assert count_activations(model, parsed.data) < 0.6 * whole
    assert isinstance(model, nn.Module)
