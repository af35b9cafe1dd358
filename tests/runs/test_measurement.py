import pytest
from small_recipe import on_meta, pretend_dry_runs, small_recipe

from lejepa_hf.runs.measurement import CountedCosts, measure
from lejepa_hf.runs.step_costs import count_flops

MIB = 1 << 20


@pytest.fixture
def dry_runs(monkeypatch):
    return pretend_dry_runs(monkeypatch)


@pytest.fixture
def measured(tmp_path, tiny_resnet, monkeypatch):
    """Measures a small recipe on a machine that needs so many seconds for an image."""

    def run(seconds_per_image: float, *arguments: str):
        recipe = small_recipe(tmp_path, tiny_resnet, *arguments)
        flops = count_flops(on_meta(recipe), recipe.data)
        rate = flops / seconds_per_image / 0.4
        monkeypatch.setattr("lejepa_hf.runs.measurement._matmul_rate", lambda device, dtype: rate)
        return measure(recipe, 1.0, CountedCosts(flops, 3 * MIB, MIB))

    return run


def test_quick_steps_have_the_whole_batch(measured, dry_runs):
    found = measured(1e-3)
    assert dry_runs == [8] and found.batch == 8 and found.used_bytes == (1 << 30) + 8 * MIB and found.fits


def test_long_steps_have_fewer_images_in_the_dry_run(measured, dry_runs):
    found = measured(1.0, "--per_device_train_batch_size", "64")
    assert dry_runs == [4, 2] and found.batch == 4
    assert found.used_bytes == (1 << 30) + 64 * MIB and found.images_per_second == 100
    assert found.worker_bytes == pytest.approx(found.used_bytes / 3, abs=64)


def test_steps_too_long_for_a_dry_run_are_counted(measured, dry_runs):
    found = measured(10.0)
    assert not dry_runs and found.batch == 0 and found.fits
    assert found.images_per_second == pytest.approx(0.1)
    assert found.used_bytes > 3 * MIB + 8 * MIB


def test_what_runs_out_of_memory_does_not_fit(measured, monkeypatch):
    monkeypatch.setattr("lejepa_hf.runs.measurement.dry_run", lambda *arguments: None)
    found = measured(1e-3)
    assert found.batch == 0 and not found.fits


def test_a_second_dry_run_that_runs_out_of_memory_does_not_fit(measured, dry_runs, monkeypatch):
    from lejepa_hf.runs import measurement

    larger = measurement.dry_run
    once = lambda recipe, batch, seconds: larger(recipe, batch, seconds) if batch == 4 else None  # noqa: E731
    monkeypatch.setattr(measurement, "dry_run", once)
    assert not measured(1.0, "--per_device_train_batch_size", "64").fits
