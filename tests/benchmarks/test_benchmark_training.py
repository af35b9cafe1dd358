import csv
import importlib.util
from pathlib import Path

import pytest
import torch

from lejepa_hf.data.photometric import apply_photometric

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "benchmark_training.py"


@pytest.fixture
def benchmark(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("benchmark_training", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "RESULTS", tmp_path / "training.csv")
    # Each way's own process would take seconds to start.
    monkeypatch.setattr(module, "peak_alone", lambda options, way: 100.0)
    return module


@pytest.fixture
def command(tmp_path, tiny_vit):
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(f"dataset: none\nbackbone_config: {tiny_vit}\nprojector_dims: [32, 8]\nnum_slices: 16\n")
    sizes = ["--global_crop_size", "16", "--local_crop_size", "8", "--blur_kernel_size", "5", "--batch_size", "4"]
    return ["--recipe", str(recipe), "--steps", "2", *sizes]


@pytest.mark.parametrize("images", [["--views_in_memory"], ["--jpegs", "12"]], ids=["in memory", "JPEG"])
def test_rows_of_a_tiny_run(benchmark, command, tmp_path, images):
    benchmark.main([*command, *images])
    rows = list(csv.DictReader((tmp_path / "training.csv").open()))
    assert [row["way"] for row in rows][:2] == ["ours", "bare loop"]
    for row in rows:
        parts = [float(row[f"{part}_ms"]) for part in benchmark.PARTS]
        assert min(parts) >= 0 and float(row["total_ms"]) > 0.5 * sum(parts)  # medians of parts do not add up exactly
        assert float(row["forward_ms"]) > 0 and float(row["objective_ms"]) > 0 and float(row["backward_ms"]) > 0
        assert 0 < float(row["objective_share"]) < 1 and 0 <= float(row["data_share"]) < 1
        assert float(row["images_per_second"]) == pytest.approx(4000 / float(row["total_ms"]), rel=0.01)
        assert row["commit"] or not (ROOT / ".git").exists()
        assert row["torch"] and row["gflop_per_image"] and row["mfu"] == ""


def test_the_bare_loop_gets_bytes_and_the_same_views_as_ours(benchmark, command):
    options = benchmark.read_options([*command, "--views_in_memory"])
    recipe = benchmark.parse(options, "unused", 1)
    rows, collator = benchmark.sources(recipe, options)["bare loop"]
    batch = collator(rows[:4])
    assert batch["global_views"].dtype is batch["local_views"].dtype is torch.uint8
    loop = benchmark.bare_loop(options, recipe, (rows, collator), benchmark.PlainLoss)
    views = loop.views_on_device(batch)
    expected = apply_photometric(batch, collator.transform)
    assert len(views) == recipe.data.num_global_views + recipe.data.num_local_views
    assert torch.equal(torch.stack(views[:2], 1), expected["global_views"])
    assert torch.equal(torch.stack(views[2:], 1), expected["local_views"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit_l14", "convnext_t", "resnet50"])
def test_operations_of_the_networks_that_are_measured(benchmark, name):
    """Twice the published multiplications of two images of 224 pixels, forward and twice as many backward."""
    options = benchmark.read_options(["--model", name, "--num_local_views", "0", "--num_global_views", "2"])
    recipe = benchmark.parse(options, "unused", 1)
    published = {"vit_l14": 81.1e9, "convnext_t": 4.47e9, "resnet50": 4.1e9}[name]
    assert benchmark.flops_per_image(recipe) == pytest.approx(2 * 6 * published, rel=0.06)
