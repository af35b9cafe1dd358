"""
Overhead of LeJEPATrainer over a bare loop of the same steps: same model, rows, views, photometric operations,
optimiser.

    python benchmarks/benchmark_trainer.py [--recipe recipes/digits/resnet_tiny.yaml] [--steps 150]

The bare loop takes one step after each step of the Trainer, so that other load on the machine affects both alike. If
whole runs were timed one after the other, the machine's speed would vary by more than the difference to be measured.
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
from lejepa_hf.model.architecture import is_convolutional
from lejepa_hf.runs.initial_model import build_config, build_model
from lejepa_hf.runs.recipes import parse_recipe

RESULTS = Path(__file__).parent / "results" / "trainer.csv"
WARMUP = 10


class BareLoop(transformers.TrainerCallback):
    """Takes a step of the bare loop after each step of the Trainer, and times both."""

    def __init__(self, recipe, source):
        self.model = build_model(build_config(recipe.model)).train()
        if is_convolutional(self.model.encoder.backbone):
            self.model.encoder.use_channels_last()  # as the Trainer does: its own cost is the question
        self.transform = MultiCropTransform.from_settings(recipe.data, recipe.training.seed)
        batch_size = recipe.training.per_device_train_batch_size
        self.batches = iter(
            DataLoader(
                EndlessRows(source.dataset, batch_size, seed=0),
                batch_size=batch_size,
                collate_fn=MultiCropCollator(self.transform),
                num_workers=recipe.training.dataloader_num_workers,
            )
        )
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, fused=True)
        self.trainer_seconds, self.bare_seconds = [], []
        self.last = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        begin = time.perf_counter()
        self.trainer_seconds.append(begin - self.last)
        output = self.model(**apply_photometric(next(self.batches), self.transform), step=state.global_step)
        self.optimizer.zero_grad()
        output.loss.backward()
        self.optimizer.step()
        output.loss.item()
        self.last = time.perf_counter()
        self.bare_seconds.append(self.last - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="recipes/digits/resnet_tiny.yaml")
    parser.add_argument("--steps", type=int, default=150)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = ["--save_strategy", "no", "--eval_strategy", "no", "--output_dir", folder]
        settings += ["--max_steps", str(options.steps)]
        recipe = parse_recipe(options.recipe, settings)
        source = load_source(recipe.data.dataset, recipe.data.train_split)
        bare = BareLoop(recipe, source)
        LeJEPATrainer(
            model=build_model(build_config(recipe.model)),
            args=recipe.training,
            train_dataset=source.dataset,
            data_collator=MultiCropCollator(bare.transform),
            callbacks=[bare],
        ).train()
    slow, fast = bare.trainer_seconds[WARMUP:], bare.bare_seconds[WARMUP:]
    row = {
        "date": datetime.date.today().isoformat(),
        "recipe": options.recipe,
        "steps": options.steps,
        "bare_seconds_per_step": round(statistics.median(fast), 5),
        "trainer_seconds_per_step": round(statistics.median(slow), 5),
        "ratio_of_medians": round(statistics.median(slow) / statistics.median(fast), 4),
        "ratio_of_sums": round(sum(slow) / sum(fast), 4),
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
