"""
Memory and speed over many steps of a tiny model, with a data worker, all monitors, evaluations and checkpoints.

`OMP_NUM_THREADS=1 python benchmarks/benchmark_long_run.py --steps 20000`; rows go to benchmarks/results/long_run.csv.
"""

import argparse
import csv
import tempfile
import time
from pathlib import Path

import torch
from transformers import TrainerCallback

from lejepa_hf import (
    LeJEPAConfig,
    LeJEPAForPreTraining,
    LeJEPATrainer,
    LeJEPATrainingArguments,
    MultiCropCollator,
    MultiCropTransform,
)
from lejepa_hf.data.sources import load_source
from lejepa_hf.hub.export import build_processor

RESULTS = Path(__file__).parent / "results" / "long_run.csv"
BACKBONE = {
    "model_type": "resnet",
    "layer_type": "basic",
    "embedding_size": 8,
    "hidden_sizes": [8, 16],
    "depths": [1, 1],
}


class Memory(TrainerCallback):
    """Resident memory of the training process, in MiB, at twenty points of the run."""

    def __init__(self):
        self.points: list[tuple[int, float, float]] = []

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step % max(1, args.max_steps // 20) == 0:
            status = Path("/proc/self/status").read_text(encoding="utf-8")
            resident = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))
            self.points.append((state.global_step, int(resident) / 1024, time.perf_counter()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20_000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    transform = MultiCropTransform(num_local_views=2, global_crop_size=16, local_crop_size=8, blur_kernel_size=5)
    memory = Memory()
    with tempfile.TemporaryDirectory() as folder:
        args = LeJEPATrainingArguments(
            output_dir=folder, max_steps=options.steps, per_device_train_batch_size=16, use_cpu=True,
            dataloader_num_workers=1, save_steps=1000, eval_strategy="steps", eval_steps=1000, logging_steps=50,
            disable_tqdm=True, ema_decay=0.999,
        )  # fmt: skip
        LeJEPATrainer(
            model=LeJEPAForPreTraining(LeJEPAConfig(backbone_config=BACKBONE, projector_dims=[32, 16], num_slices=32)),
            args=args,
            train_dataset=load_source("digits").dataset,
            eval_dataset=load_source("digits", "test").dataset,
            data_collator=MultiCropCollator(transform, label_column="label"),
            processing_class=build_processor(16, 1.0),
            callbacks=[memory],
        ).train()
    warm = memory.points[1:]
    rows = [
        {"step": step, "resident_mib": round(resident, 1), "over_warm": round(resident / warm[0][1], 4)}
        for step, resident, _ in memory.points
    ]
    with RESULTS.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    seconds = (warm[-1][2] - warm[0][2]) / (warm[-1][0] - warm[0][0])
    most = max(row["over_warm"] for row in rows)
    print(f"{1000 * seconds:.1f} ms a step; memory at most {most:.4f} of that after {warm[0][0]} steps")


if __name__ == "__main__":
    main()
