"""A recipe of a run of seconds, for the tests of plans."""

from pathlib import Path

import torch

from lejepa_hf import LeJEPAForPreTraining
from lejepa_hf.runs.arguments import Recipe
from lejepa_hf.runs.dry_run import DryRun
from lejepa_hf.runs.initial_model import build_config, build_model
from lejepa_hf.runs.recipes import parse_recipe

SMALL = ["--use_cpu", "--global_crop_size", "16", "--local_crop_size", "8", "--blur_kernel_size", "5"]


def small_recipe(folder: Path, backbone: dict, *arguments: str) -> Recipe:
    path = folder / "small.yaml"
    path.write_text(f"dataset: digits\nbackbone_config: {backbone}\nprojector_dims: [32, 8]\nmax_steps: 20\n")
    return parse_recipe(path, [*SMALL, *arguments])


def on_meta(recipe: Recipe) -> LeJEPAForPreTraining:
    with torch.device("meta"):
        return build_model(build_config(recipe.model))


def pretend_dry_runs(monkeypatch) -> list[int]:
    """Every dry run takes 1 GiB and 1 MiB for each image, a worker a third of it; the list has the batch of each."""
    batches = []

    def pretended(recipe: Recipe, batch_size: int, seconds: float) -> DryRun:
        batches.append(batch_size)
        size = (1 << 30) + (batch_size << 20)
        return DryRun(10, 100.0, 0.6, size, size // 3, size // 2, size)

    monkeypatch.setattr("lejepa_hf.runs.measurement.dry_run", pretended)
    return batches
