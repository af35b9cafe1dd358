from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from small_recipe import small_recipe

from lejepa_hf.runs.dry_run import Stopwatch, dry_run, peak_resident_bytes
from lejepa_hf.runs.recipes import parse_recipe

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_dry_run_refuses_what_training_refuses(tmp_path, tiny_resnet):
    with pytest.raises(ValueError, match="fewer than one global batch"):
        dry_run(small_recipe(tmp_path, tiny_resnet), 2000, 0.0)


@pytest.mark.slow
def test_the_main_job_has_a_dry_run():
    job = parse_recipe(ROOT / "recipes/digits/resnet_tiny.yaml", ["--load_best_model_at_end", "--save_steps", "100"])
    found = dry_run(job, 8, 0.1)
    assert found.images_per_second > 0 and found.steps >= 2 and 0 <= found.data_wait_fraction <= 1
    assert found.process_bytes > 100 << 20, "torch alone has more"


@pytest.fixture
def log():
    """Logs steps of a run of 10 images each, until the stopwatch ends it; says after how many."""

    def run(stopwatch: Stopwatch, rates: list[float]) -> int:
        args = SimpleNamespace(
            per_device_train_batch_size=5, gradient_accumulation_steps=2, device=torch.device("cpu")
        )
        state, control = SimpleNamespace(global_step=0), SimpleNamespace(should_training_stop=False)
        stopwatch.on_train_begin(args, state, control)
        for rate in rates:
            state.global_step += 1
            stopwatch.on_log(args, state, control, {"images_per_second": rate, "data_wait_fraction": 0.5})
            if control.should_training_stop:
                break
        return state.global_step

    return run


def test_the_warm_up_is_not_measured(log):
    stopwatch = Stopwatch(seconds=3.0, prefetched=0)
    assert log(stopwatch, [0.1, 0.1, *[10.0] * 9]) == 5, "two steps of warm-up, then three of a second each"
    assert stopwatch.result.steps == 3
    assert stopwatch.result.images_per_second == pytest.approx(10)
    assert stopwatch.result.data_wait_fraction == pytest.approx(0.5)


def test_prefetched_batches_are_not_measured(log):
    assert log(Stopwatch(seconds=3.0, prefetched=4), [10.0] * 20) == 9


def test_a_step_that_was_disturbed_counts_little(log):
    stopwatch = Stopwatch(seconds=12.0, prefetched=0)
    log(stopwatch, [10.0] * 2 + [10.0, 10.0, 1.25, 10.0, 10.0])
    assert stopwatch.result.images_per_second > 10 / (0.5 + 1.2 + 0.1), "the median of the busy time is half a second"


def test_own_memory_and_that_of_nobody():
    assert peak_resident_bytes() > 100 << 20
    assert peak_resident_bytes(2**30) == 0
