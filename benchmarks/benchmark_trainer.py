"""
What LeJEPATrainer costs over a bare loop of the same steps: same model, rows, views, photometrics, optimiser.

    python benchmarks/benchmark_trainer.py [--recipe recipes/digits/resnet_tiny.yaml] [--steps 40] [--rounds 5]

Rounds alternate, so that a busy machine disturbs both alike; the CSV row holds medians and the ratio of each round.
"""

import argparse
import csv
import datetime
import platform
import statistics
import tempfile
import time
from pathlib import Path

import torch
import transformers
from torch.utils.data import DataLoader

from lejepa_hf import LeJEPATrainer, MultiCropCollator, MultiCropTransform
from lejepa_hf.data.photometric import apply_photometric
from lejepa_hf.data.sources import load_source
from lejepa_hf.data.streaming import EndlessRows
from lejepa_hf.recipes import parse_recipe
from lejepa_hf.train import build_model

RESULTS = Path(__file__).parent / "results" / "trainer.csv"
WARMUP = 5


def seconds_per_step(times: list[float]) -> float:
    return (times[-1] - times[WARMUP]) / (len(times) - 1 - WARMUP)


def bare_loop(recipe, source, steps: int) -> float:
    model = build_model(recipe.model).train()
    transform = MultiCropTransform.from_settings(recipe.data, recipe.training.seed)
    batch_size = recipe.training.per_device_train_batch_size
    loader = DataLoader(
        EndlessRows(source.dataset, batch_size, seed=0),
        batch_size=batch_size,
        collate_fn=MultiCropCollator(transform),
        num_workers=recipe.training.dataloader_num_workers,
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    times = []
    for step, batch in zip(range(steps), loader, strict=False):
        output = model(**apply_photometric(batch, transform), step=step)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        output.loss.item()
        times.append(time.perf_counter())
    return seconds_per_step(times)


class StepTimes(transformers.TrainerCallback):
    def __init__(self):
        self.times = []

    def on_step_end(self, args, state, control, **kwargs):
        self.times.append(time.perf_counter())


def trainer(recipe, source, steps: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        recipe.training.output_dir = folder
        recipe.training.max_steps = steps
        clock = StepTimes()
        LeJEPATrainer(
            model=build_model(recipe.model),
            args=recipe.training,
            train_dataset=source.dataset,
            data_collator=MultiCropCollator(MultiCropTransform.from_settings(recipe.data, recipe.training.seed)),
            callbacks=[clock],
        ).train()
    return seconds_per_step(clock.times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="recipes/digits/resnet_tiny.yaml")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    recipe = parse_recipe(options.recipe, ["--save_strategy", "no", "--disable_tqdm"])
    source = load_source(recipe.data.dataset, recipe.data.train_split)
    bare, trained = [], []
    for number in range(options.rounds):
        pair = [(bare, bare_loop), (trained, trainer)]
        for results, run in pair if number % 2 == 0 else reversed(pair):  # neither always goes first
            results.append(run(recipe, source, options.steps))
        ratio = trained[-1] / bare[-1]
        print(f"round {number}: bare {bare[-1]:.4f} s, Trainer {trained[-1]:.4f} s, ratio {ratio:.3f}")
    ratios = [slow / fast for slow, fast in zip(trained, bare, strict=True)]
    row = {
        "date": datetime.date.today().isoformat(),
        "recipe": options.recipe,
        "steps": options.steps,
        "rounds": options.rounds,
        "bare_seconds_per_step": round(statistics.median(bare), 5),
        "trainer_seconds_per_step": round(statistics.median(trained), 5),
        "ratio_median": round(statistics.median(ratios), 4),
        "ratio_min": round(min(ratios), 4),
        "ratio_max": round(max(ratios), 4),
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    fresh = not RESULTS.exists()
    with RESULTS.open("a", newline="") as file:
        writer = csv.DictWriter(file, row)
        if fresh:
            writer.writeheader()
        writer.writerow(row)
    print(row)


if __name__ == "__main__":
    main()
