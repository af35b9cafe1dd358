"""
Runs of LeJEPATrainer whose losses are written down; under torchrun from tests/test_trajectory.py, or in one process.

`python trajectory_run.py KIND OUTPUT [ACCUMULATION,CHECKPOINTING ...]` with KIND `ddp`, `fsdp` or `alone`.
"""

import json
import sys
from pathlib import Path

import torch
from transformers import TrainerCallback

GLOBAL_BATCH, STEPS = 16, 20
TINY_VIT = {
    "model_type": "vit",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 16,
    "patch_size": 4,
    "initializer_range": 0.3,  # at 0.02 images hardly differ, and rounding decides
}


def let_fsdp_run_on_cpu() -> None:
    """Accelerate knows FSDP on accelerators only and runs DDP instead, without a word; gloo can do it."""
    import accelerate.state as state

    original = state.AcceleratorState.__init__

    def patched(self, *args, **kwargs):
        shared = state.PartialState._shared_state
        if not shared:
            state.PartialState(kwargs.get("cpu", False))
        if shared.get("distributed_type") == state.DistributedType.MULTI_CPU:
            shared["distributed_type"] = state.DistributedType.MULTI_GPU
        original(self, *args, **kwargs)

    state.AcceleratorState.__init__ = patched


class Losses(TrainerCallback):
    def __init__(self):
        self.rows = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "prediction_loss" in logs:
            self.rows.append([logs["loss"], logs["prediction_loss"], logs["sigreg_loss"]])


def build(kind: str, folder: Path, accumulation: int, checkpointing: bool, world_size: int, **kwargs):
    """A trainer and its losses."""
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

    torch.manual_seed(0)
    config = LeJEPAConfig(backbone_config=TINY_VIT, projector_dims=[32, 32, 8], num_slices=32, sigreg_weight=0.1)
    fsdp = {"fsdp": True, "fsdp_config": {"version": 2}} if kind == "fsdp" else {}
    if kind == "fsdp" and checkpointing:
        fsdp["fsdp_config"]["activation_checkpointing"] = True
    losses = Losses()
    settings = {
        "output_dir": str(folder),
        "use_cpu": True,
        "disable_tqdm": True,
        "max_steps": STEPS,
        "save_strategy": "no",
        "logging_steps": 1,
        "per_device_train_batch_size": GLOBAL_BATCH // world_size,
        "gradient_accumulation_steps": accumulation,
        "gradient_checkpointing": checkpointing and kind != "fsdp",
        "dataloader_num_workers": 0,
        "learning_rate": 2e-3,
        "seed": 0,
    }
    transform = MultiCropTransform(num_local_views=2, global_crop_size=16, local_crop_size=8, blur_kernel_size=5)
    trainer = LeJEPATrainer(
        model=LeJEPAForPreTraining(config),
        args=LeJEPATrainingArguments(**settings | fsdp | kwargs),
        train_dataset=load_source("digits").dataset,
        eval_dataset=load_source("digits", "test").dataset,
        data_collator=MultiCropCollator(transform, label_column="label"),
        processing_class=build_processor(16, 1.0),
        callbacks=[losses],
    )
    return trainer, losses.rows


def train(kind: str, folder: Path, accumulation: int, checkpointing: bool, world_size: int) -> list[list[float]]:
    trainer, rows = build(kind, folder, accumulation, checkpointing, world_size)
    inner, calls = next(module for name, module in trainer.model.named_modules() if "layernorm" in name), []
    inner.register_forward_pre_hook(lambda *_: calls.append(1))
    trainer.train()
    # Two crop sizes; with checkpointing the backward pass computes the block again.
    assert len(calls) == STEPS * accumulation * 2 * (2 if checkpointing else 1), len(calls)
    if kind == "fsdp":
        wrapped = [name for name, module in trainer.model.named_modules() if type(module).__name__ == "FSDPViTLayer"]
        assert len(wrapped) == TINY_VIT["num_hidden_layers"], wrapped
    return rows


def main(kind: str, output: str, *settings: str) -> None:
    torch.set_num_threads(1)
    if kind == "fsdp":
        let_fsdp_run_on_cpu()
    import os

    world_size = int(os.environ.get("WORLD_SIZE", 1))
    found = {}
    for setting in settings:
        accumulation, checkpointing = map(int, setting.split(","))
        folder = Path(output).parent / f"run-{setting}"
        found[setting] = train(kind, folder, accumulation, bool(checkpointing), world_size)
    if int(os.environ.get("RANK", 0)) == 0:
        Path(output).write_text(json.dumps(found), encoding="utf-8")
    if world_size > 1:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
