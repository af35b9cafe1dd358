import csv
import importlib.util
from pathlib import Path

import pytest

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


def test_rows_of_a_tiny_run(benchmark, tmp_path, tiny_vit):
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(f"dataset: none\nbackbone_config: {tiny_vit}\nprojector_dims: [32, 8]\nnum_slices: 16\n")
    sizes = ["--global_crop_size", "16", "--local_crop_size", "8", "--blur_kernel_size", "5", "--batch_size", "4"]
    benchmark.main(["--recipe", str(recipe), "--steps", "2", "--views_in_memory", *sizes])
    rows = list(csv.DictReader((tmp_path / "training.csv").open()))
    assert [row["way"] for row in rows][:2] == ["ours", "bare loop"]
    for row in rows:
        parts = [float(row[f"{part}_ms"]) for part in benchmark.PARTS]
        assert min(parts) >= 0 and float(row["total_ms"]) > 0
        assert float(row["forward_ms"]) > 0 and float(row["objective_ms"]) > 0 and float(row["backward_ms"]) > 0
        assert 0 < float(row["objective_share"]) < 1
        assert float(row["images_per_second"]) == pytest.approx(4000 / float(row["total_ms"]), rel=0.01)
        assert row["commit"] or not (ROOT / ".git").exists()
        assert row["torch"] and row["gflop_per_image"] and row["mfu"] == ""
