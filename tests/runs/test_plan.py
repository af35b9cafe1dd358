import copy
from dataclasses import replace

import pytest
from PIL import Image
from small_recipe import SMALL, pretend_dry_runs, small_recipe

from lejepa_hf.cli import main
from lejepa_hf.runs.initial_model import build_config, build_model
from lejepa_hf.runs.measurement import Measurement
from lejepa_hf.runs.plan import Plan, ViewPlan, format_plan, make_plan


@pytest.mark.slow
def test_plan_of_a_small_run(tiny_resnet, tmp_path):
    folder = tmp_path / "run"
    arguments = ["--max_steps", "-1", "--num_train_epochs", "3", "--dataloader_num_workers", "1"]
    parsed = small_recipe(tmp_path, tiny_resnet, *arguments, "--output_dir", str(folder))
    before = copy.deepcopy(parsed)
    plan = make_plan(parsed, 0.5)
    assert parsed == before, "nothing changes a recipe"
    measured = plan.measured
    assert (plan.images, plan.global_batch, plan.steps) == (1347, 8, 506)  # 3 * 1347 / 8, rounded up
    assert plan.image_side == 8 and plan.fitting.startswith("Recipe folder/small_")
    model = build_model(build_config(parsed.model))
    assert plan.encoder_parameters == sum(p.numel() for p in model.encoder.parameters())
    assert plan.state_bytes == 16 * sum(p.numel() for p in model.parameters())
    assert plan.view_bytes == 8 * 4 * 3 * (2 * 16**2 + 6 * 8**2)
    assert measured.batch == 8 and not plan.is_estimated and measured.fits
    assert plan.images_per_second > 0 and 0 <= measured.data_wait_fraction <= 1
    assert plan.seconds_per_epoch == pytest.approx(1347 / plan.images_per_second)
    assert plan.seconds == pytest.approx(506 * 8 / plan.images_per_second)
    # torch alone has more than 100 MiB
    assert measured.used_bytes == measured.process_bytes > plan.state_bytes + plan.activation_bytes + (100 << 20)
    assert 100 << 20 < measured.worker_bytes < plan.device_bytes and measured.allocated_bytes == 0
    text = format_plan(plan)
    assert (
        "1,347" in text and "506 steps of 8" in text and "measured in a dry run" in text and "time per epoch" in text
    )
    assert not folder.exists()


def test_fewer_images_make_an_estimate(tmp_path, tiny_resnet, monkeypatch):
    batches = pretend_dry_runs(monkeypatch)
    monkeypatch.setattr("lejepa_hf.runs.measurement._matmul_rate", lambda device, dtype: 1e7)
    plan = make_plan(small_recipe(tmp_path, tiny_resnet, "--per_device_train_batch_size", "64"))
    assert plan.measured.batch == batches[0] == 2 * batches[1] < plan.batch == 64 and plan.is_estimated


def test_the_steps_of_a_stream_must_be_given(tmp_path, tiny_resnet, monkeypatch):
    monkeypatch.setattr("lejepa_hf.data.sources.ImageSource.num_images", property(lambda source: None))
    pretend_dry_runs(monkeypatch)
    with pytest.raises(ValueError, match="`max_steps` is needed"):
        make_plan(small_recipe(tmp_path, tiny_resnet, "--max_steps", "-1"))


def test_labels_that_cannot_be_balanced_are_refused_before_the_dry_run(tmp_path, tiny_resnet, monkeypatch):
    pretend_dry_runs(monkeypatch)
    folder = tmp_path / "flat"
    folder.mkdir()
    for number in range(8):
        Image.new("L", (8, 8), number).save(folder / f"{number}.png")
    arguments = ["--class_balanced", "true", "--dataset", str(folder), "--eval_split", "null"]
    with pytest.raises(ValueError, match="`class_balanced` needs labels, and the training images have none"):
        make_plan(small_recipe(tmp_path, tiny_resnet, *arguments))


def test_command(capsys, tmp_path, tiny_resnet, monkeypatch):
    pretend_dry_runs(monkeypatch)
    small_recipe(tmp_path, tiny_resnet)
    arguments = [str(tmp_path / "small.yaml"), "--seconds", "1", *SMALL, "--per_device_train_batch_size", "4"]
    assert main(["plan", *arguments]) == 0
    assert "20 steps of 4 images" in capsys.readouterr().out
    monkeypatch.setattr("lejepa_hf.runs.measurement.dry_run", lambda *arguments: None)  # there was not enough memory
    assert main(["plan", *arguments]) == 1
    assert "It does not fit" in capsys.readouterr().out
    assert main(["plan", str(tmp_path / "small.yaml"), "--sigreg_wait", "1"]) == 2
    assert "Did you mean `sigreg_weight`?" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


GIB = 1 << 30
MEASURED = Measurement(8, 100.0, 0.6, GIB, GIB // 2, 2 * GIB, GIB, fits=True)
PLAN = Plan(
    source="digits", images=1347, steps=20, batch=8, global_batch=16, processes=2,
    views=[ViewPlan("global", 2, 16, 17), ViewPlan("local", 6, 8, 5)],
    encoder_parameters=1000, projector_parameters=200, flops_per_image=2e9, state_bytes=GIB, activation_bytes=GIB,
    view_bytes=GIB, device="cuda", device_bytes=4 * GIB, workers=4, measured=MEASURED,
    image_side=8, flops_after=6e12, fitting="Recipe folder/laptop fits.",
)  # fmt: skip


def measured(**values) -> Plan:
    return replace(PLAN, measured=replace(MEASURED, **values))


def test_rows():
    text = format_plan(PLAN)
    for part in ("digits: 1,347", "20 steps of 16 images, 2 process(es)", "2 x 16 px (17 tokens each)", "64 tokens",
                 "encoder 1,000, projector 200", "2.0 GFLOP", "200 images/s, 60% of the time waiting for views",
                 "2.0 GiB of 4.0 GiB, 1.0 GiB of it allocated at once, measured in a dry run",
                 "512 MiB each of its 4 workers", "after training      30 s to embed images and measure"):  # fmt: skip
        assert part in text, part


def test_what_follows_training_is_counted(tmp_path, tiny_vit, monkeypatch):
    """Forward passes by hand: the share of a view, times the images that pass the encoder, trained and not."""
    pretend_dry_runs(monkeypatch)
    views = ["--num_local_views", "0", "--global_crop_size", "16"]
    plans = [make_plan(small_recipe(tmp_path, tiny_vit, *views, *more)) for more in ([], ["--eval_split", "test"])]
    forward = plans[0].flops_per_image / 3  # of two views, and their projections
    assert plans[0].flops_after == pytest.approx(512 * forward)
    embedding = plans[1].flops_after - plans[0].flops_after
    assert 0.9 * forward / 2 < embedding / (2 * (1347 + 450)) < forward / 2
    assert format_plan(replace(PLAN, flops_after=None)).count("after training      unknown") == 1


def test_estimates_are_called_so():
    assert "estimated from 4 images per step" in format_plan(measured(batch=4))
    text = format_plan(measured(batch=0))
    assert ", estimated\n" in text and "There was no dry run" in text


def test_a_run_that_does_not_fit_or_takes_days_names_the_recipe_that_does():
    assert "Recipe folder/laptop fits." not in format_plan(PLAN)
    assert "Recipe folder/laptop fits." in format_plan(measured(fits=False))
    assert "Recipe folder/laptop fits." in format_plan(replace(PLAN, steps=2_000_000))
    assert format_plan(replace(measured(fits=False), fitting=None)).count("fits") == 0


def test_crops_that_enlarge_the_images_are_named():
    assert "enlarge" not in format_plan(PLAN), "twice is accepted"
    told = "Crops of 16 pixels enlarge these images, whose shorter side has 7, 2.3 times: a smaller `global_crop_size`"
    assert told in format_plan(replace(PLAN, image_side=7))


def test_a_stream_of_unknown_length():
    text = format_plan(replace(PLAN, images=None))
    assert "a stream of unknown length" in text and "unknown" in text and "passes over" not in text


@pytest.mark.parametrize(
    ("plan", "verdict"),
    [
        (PLAN, "will wait for data 60% of the time: it needs 10 workers, not 4"),
        (measured(data_wait_fraction=0.0), "The data keep up"),
        (replace(PLAN, workers=0), "Views are cut between steps, 60%"),
        (replace(PLAN, device="cpu"), "share the CPU"),
        (measured(fits=False), "It does not fit: lower `per_device_train_batch_size`"),
    ],
)
def test_verdict(plan, verdict):
    assert verdict in format_plan(plan).splitlines()[-1]
