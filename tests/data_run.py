"""
A training run as users start it, on digits in Parquet shards; with `--die STEP` it is killed there, by SIGKILL, with
`--die-after SECONDS` wherever it is then.
"""

import argparse
import json
import os
import signal
import threading
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
from lejepa_hf.training.checkpoints import resolve_resume


class Die(TrainerCallback):
    def __init__(self, step: int):
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


class DieLater(TrainerCallback):
    """Killed wherever it happens to be, saving included."""

    def __init__(self, seconds: float):
        self.seconds = seconds

    def on_train_begin(self, args, state, control, **kwargs):
        if self.seconds >= 0:
            threading.Timer(self.seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()


class Noted(MultiCropCollator):
    """Notes which rows were cut; in the training process, so for no worker."""

    def __init__(self, transform, path: Path):
        super().__init__(transform, label_column="label")
        self.path = path

    def __call__(self, examples):
        with self.path.open("a") as file:
            file.writelines(json.dumps([row["epoch"], row["index"]]) + "\n" for row in examples)
        return super().__call__(examples)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("shards")
    parser.add_argument("run")
    parser.add_argument("--streaming", action="store_true")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--buffer", type=int, default=20)
    parser.add_argument("--accumulation", type=int, default=1)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--save", type=int, default=3)
    parser.add_argument("--die", type=int, default=-1)
    parser.add_argument("--die-after", type=float, default=-1.0)
    parser.add_argument("--note", action="store_true")
    parser.add_argument("--balanced", action="store_true")
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    backbone = {"model_type": "resnet", "layer_type": "basic", "embedding_size": 8, "hidden_sizes": [8, 16]}
    config = LeJEPAConfig(backbone_config=backbone | {"depths": [1, 1]}, projector_dims=[16, 8], num_slices=16)
    args = LeJEPATrainingArguments(
        output_dir=options.run,
        use_cpu=True,
        disable_tqdm=True,
        max_steps=options.steps,
        save_steps=options.save,
        logging_steps=1,
        per_device_train_batch_size=options.batch,
        gradient_accumulation_steps=options.accumulation,
        shuffle_buffer_size=options.buffer,
        dataloader_num_workers=options.workers,
        save_total_limit=None,
        class_balanced=options.balanced,
        seed=0,
    )
    transform = MultiCropTransform(num_local_views=2, global_crop_size=16, local_crop_size=8, blur_kernel_size=5)
    collator = MultiCropCollator(transform, label_column="label" if options.balanced else None)
    noted = Path(options.run + f"-rows-{args.process_index}.jsonl")
    trainer = LeJEPATrainer(
        model=LeJEPAForPreTraining(config),
        args=args,
        train_dataset=load_source(f"{options.shards}/*.parquet", streaming=options.streaming).dataset,
        data_collator=Noted(transform, noted) if options.note else collator,
        callbacks=[Die(options.die), DieLater(options.die_after)],
    )
    resume = resolve_resume("auto", options.run) if options.resume else None
    trainer.train(resume_from_checkpoint=resume)
    trainer.save_model(options.run + "/final")
    trainer.accelerator.end_training()


if __name__ == "__main__":
    main()
