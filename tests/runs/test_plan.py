from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from lejepa_hf.cli import main
from lejepa_hf.runs.dry_run import Rehearsal, rehearse
from lejepa_hf.runs.plan import count_activations, count_flops, count_tokens, format_plan, make_plan
from lejepa_hf.runs.pretraining import build_model
from lejepa_hf.runs.recipes import parse_recipe

ROOT = Path(__file__).parents[2]
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
        output = model.projector(*embeddings)
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


def test_plan_of_a_small_run(recipe, tiny_resnet, tmp_path):
    folder = tmp_path / "run"
    arguments = ["--max_steps", "-1", "--num_train_epochs", "3", "--dataloader_num_workers", "1"]
    parsed = recipe(tiny_resnet, *arguments, "--output_dir", str(folder))
    plan = make_plan(parsed, 0.5)
    assert (plan.images, plan.global_batch, plan.steps) == (1347, 8, 506)  # 3 * 1347 / 8, rounded up
    model = build_model(parsed.model)
    assert plan.encoder_parameters == sum(p.numel() for p in model.encoder.parameters())
    assert plan.state_bytes == 16 * sum(p.numel() for p in model.parameters())
    assert plan.view_bytes == 8 * 4 * 3 * (2 * 16**2 + 6 * 8**2)
    assert plan.rehearsed_batch == 8 and not plan.is_estimated and plan.fits
    assert plan.images_per_second > 0 and 0 <= plan.data_wait_fraction <= 1
    assert plan.seconds_per_epoch == pytest.approx(1347 / plan.images_per_second)
    assert plan.seconds == pytest.approx(506 * 8 / plan.images_per_second)
    # torch alone has more than 100 MiB
    assert plan.used_bytes == plan.process_bytes > plan.state_bytes + plan.activation_bytes + (100 << 20)
    assert 100 << 20 < plan.worker_bytes < plan.device_bytes and plan.allocated_bytes == 0
    text = format_plan(plan)
    assert "1,347" in text and "506 steps of 8" in text and "rehearsed" in text and "time of an epoch" in text
    assert not folder.exists()


def test_a_rehearsal_refuses_what_training_refuses(recipe, tiny_resnet):
    with pytest.raises(ValueError, match="fewer than one global batch"):
        rehearse(recipe(tiny_resnet), 2000, 0.0)


def test_the_main_job_can_be_rehearsed():
    job = parse_recipe(Path(__file__).parents[2] / "recipes/digits/resnet_tiny.yaml", ["--load_best_model_at_end"])
    assert rehearse(job, 8, 0.1).images_per_second > 0


@pytest.fixture
def rehearsed(monkeypatch):
    """Every rehearsal takes 1 GiB and 1 MiB an image, a worker a third of it; says which were made."""
    batches = []

    def pretended(recipe, batch_size, seconds):
        batches.append(batch_size)
        size = (1 << 30) + (batch_size << 20)
        return Rehearsal(10, 100.0, 0.6, size, size // 3, size // 2, size)

    monkeypatch.setattr("lejepa_hf.runs.plan.rehearse", pretended)
    return batches


def test_long_steps_are_rehearsed_with_fewer_images(recipe, tiny_resnet, rehearsed, monkeypatch):
    parsed = recipe(tiny_resnet, "--per_device_train_batch_size", "64")
    image = 3 * count_flops(on_meta(parsed), parsed.data)
    monkeypatch.setattr("lejepa_hf.runs.plan._matmul_rate", lambda device, dtype: image / 0.4)  # a second an image
    plan = make_plan(parsed)
    assert rehearsed == [4, 2] and plan.rehearsed_batch == 4 and plan.is_estimated
    assert plan.used_bytes == (1 << 30) + (64 << 20) and plan.images_per_second == 100
    assert plan.worker_bytes == pytest.approx(plan.used_bytes / 3, abs=64)
    assert "estimated from 4 images a step" in format_plan(plan)


def test_steps_too_long_for_a_rehearsal_are_counted(recipe, tiny_resnet, rehearsed, monkeypatch):
    parsed = recipe(tiny_resnet)
    image = 3 * count_flops(on_meta(parsed), parsed.data)
    monkeypatch.setattr("lejepa_hf.runs.plan._matmul_rate", lambda device, dtype: image / 4)  # ten seconds an image
    plan = make_plan(parsed)
    assert not rehearsed and plan.rehearsed_batch == 0 and plan.is_estimated and plan.fits
    assert plan.images_per_second == pytest.approx(0.1)
    assert plan.used_bytes > plan.state_bytes + plan.activation_bytes + plan.view_bytes
    assert "estimated" in format_plan(plan) and "Nothing was rehearsed" in format_plan(plan)


def test_what_runs_out_of_memory_does_not_fit(recipe, tiny_resnet, monkeypatch):
    monkeypatch.setattr("lejepa_hf.runs.plan.rehearse", lambda *arguments: None)
    plan = make_plan(recipe(tiny_resnet))
    assert not plan.fits and "lower `per_device_train_batch_size`" in format_plan(plan)


def test_verdict(recipe, tiny_resnet, rehearsed):
    plan = replace(make_plan(recipe(tiny_resnet)), device="cuda", workers=4)
    assert rehearsed == [8]
    assert "will wait for data 60% of the time: it needs 10 workers for 4" in format_plan(plan)
    assert "The data keep up" in format_plan(replace(plan, data_wait_fraction=0.0))
    assert "Views are cut between steps, 60%" in format_plan(replace(plan, workers=0))
    assert "share the CPU" in format_plan(replace(plan, device="cpu"))


def test_command(capsys, recipe, tmp_path, rehearsed):
    recipe()
    arguments = [str(tmp_path / "small.yaml"), "--seconds", "1", *SMALL, "--per_device_train_batch_size", "4"]
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
