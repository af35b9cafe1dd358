"""Training runs on digits in Parquet shards, each the job of a process; some are killed, by SIGKILL."""

import argparse
import json
import logging
import os
import signal
import sys
from pathlib import Path

import datasets
import torch
from transformers import TrainerCallback

from lejepa_hf import (
    LeJEPAConfig,
    LeJEPAForPreTraining,
    LeJEPATrainer,
    LeJEPATrainingArguments,
    MultiCropCollator,
    MultiCropTransform,
    train,
)
from lejepa_hf.checkpoints import resolve_resume
from lejepa_hf.data.sources import load_source


def die():
    os.kill(os.getpid(), signal.SIGKILL)


class Die(TrainerCallback):
    def __init__(self, step: int):
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            die()


class DiesSaving(LeJEPATrainer):
    """The second process dies before it has saved its part of the checkpoint of a step."""

    step = -1

    def _save_rng_state(self, output_dir):
        if self.state.global_step == self.step and self.args.process_index == 1:
            die()
        super()._save_rng_state(output_dir)


class Noted(MultiCropCollator):
    """Notes which rows were cut; in the training process, so for no worker."""

    def __init__(self, transform, path: Path):
        super().__init__(transform)
        self.path = path

    def __call__(self, examples):
        with self.path.open("a") as file:
            file.writelines(json.dumps([row["epoch"], row["index"]]) + "\n" for row in examples)
        return super().__call__(examples)


def begin(output: Path, environment: dict[str, str]) -> None:
    """Of a process: what it says goes into files."""
    os.environ.update(environment)
    for stream, ending in ((1, ".out"), (2, ".err")):
        os.dup2(os.open(output.with_suffix(ending), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    torch.set_num_threads(1)


def recipe_run(arguments: list[str]) -> None:
    """As train.py does it; `datasets`, which has retries of its own before ours, tries once and does not wait."""
    for name in ("STREAMING_READ_RETRY_INTERVAL", "STREAMING_OPEN_RETRY_INTERVAL"):
        setattr(datasets.config, name, 0)
    for name in ("STREAMING_READ_MAX_RETRIES", "STREAMING_OPEN_MAX_RETRIES"):
        setattr(datasets.config, name, 1)
    sys.exit(train.main(arguments))


def trainer_run(arguments: list[str]) -> None:
    """Through the Trainer alone."""
    parser = argparse.ArgumentParser()
    parser.add_argument("shards")
    parser.add_argument("run")
    parser.add_argument("--streaming", action="store_true")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--buffer", type=int, default=20)
    parser.add_argument("--accumulation", type=int, default=1)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--die", type=int, default=-1)
    parser.add_argument("--die-saving", type=int, default=-1)
    parser.add_argument("--note", action="store_true")
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args(arguments)
    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    logging.getLogger("lejepa_hf").setLevel(logging.INFO)
    torch.manual_seed(0)
    backbone = {"model_type": "resnet", "layer_type": "basic", "embedding_size": 8, "hidden_sizes": [8, 16]}
    config = LeJEPAConfig(backbone_config=backbone | {"depths": [1, 1]}, projector_dims=[16, 8], num_slices=16)
    args = LeJEPATrainingArguments(
        output_dir=options.run,
        use_cpu=True,
        disable_tqdm=True,
        max_steps=options.steps,
        save_steps=3,
        logging_steps=1,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=options.accumulation,
        shuffle_buffer_size=options.buffer,
        dataloader_num_workers=options.workers,
        save_total_limit=None,
        seed=0,
    )
    transform = MultiCropTransform(num_local_views=2, global_crop_size=16, local_crop_size=8, blur_kernel_size=5)
    noted = Path(options.run + f"-rows-{args.process_index}.jsonl")
    trainer = DiesSaving(
        model=LeJEPAForPreTraining(config),
        args=args,
        train_dataset=load_source(f"{options.shards}/*.parquet", streaming=options.streaming).dataset,
        data_collator=Noted(transform, noted) if options.note else MultiCropCollator(transform),
        callbacks=[Die(options.die)],
    )
    trainer.step = options.die_saving
    resume = str(resolve_resume("auto", options.run)) if options.resume else None
    trainer.train(resume_from_checkpoint=resume)
    trainer.save_model(options.run + "/final")
    trainer.accelerator.end_training()


def main(job: str, arguments: list[str], output: Path, environment: dict[str, str]) -> None:
    begin(output, environment)
    {"recipe": recipe_run, "trainer": trainer_run}[job](arguments)
