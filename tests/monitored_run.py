"""
Tiny runs with all monitors, in the tests' process; or run by torchrun from tests/test_held_out.py: two ranks train
with evaluations and an online probe, and must agree on every figure and every weight.
"""

import json
import sys
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist

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
from lejepa_hf.training.callbacks.online_probe import OnlineProbe

TRANSFORM = MultiCropTransform(num_local_views=2, global_crop_size=16, local_crop_size=8, blur_kernel_size=5)
RESNET = {
    "model_type": "resnet",
    "layer_type": "basic",
    "embedding_size": 8,
    "hidden_sizes": [8, 16],
    "depths": [1, 1],
}
VIT = {
    "model_type": "vit", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
    "image_size": 16, "patch_size": 4,
}  # fmt: skip


def monitored(folder, backbone=None, label_column="label", eval_dataset="test", transform=None, model=None, **kwargs):
    """A trainer of digits that evaluates every other step, if not told otherwise."""
    torch.manual_seed(0)
    settings = {
        "max_steps": 6,
        "per_device_train_batch_size": 8,
        "save_steps": 3,
        "logging_steps": 1,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "monitor_images": 24,
        "use_cpu": True,
        "disable_tqdm": True,
        "dataloader_num_workers": 0,
    }
    config = {"projector_dims": [16, 8], "num_slices": 16} | (model or {})
    held_out = load_source("digits", eval_dataset).dataset if isinstance(eval_dataset, str) else eval_dataset
    return LeJEPATrainer(
        model=LeJEPAForPreTraining(LeJEPAConfig(backbone_config=backbone or RESNET, **config)),
        args=LeJEPATrainingArguments(output_dir=str(folder), **settings | kwargs),
        train_dataset=load_source("digits").dataset,
        eval_dataset=held_out,
        data_collator=MultiCropCollator(transform or TRANSFORM, label_column=label_column),
        processing_class=build_processor(16, 1.0),
    )


def rows(trainer, name: str = "loss") -> list[dict]:
    """The logged rows that hold a name."""
    return [row for row in trainer.state.log_history if name in row]


def probe_of(trainer):
    return next(callback for callback in trainer.callback_handler.callbacks if isinstance(callback, OnlineProbe))


def draw_probe(trainer):
    """The linear layer of a trainer's online probe, with weights that some training could have given it."""
    linear = probe_of(trainer).probe[1]
    torch.nn.init.normal_(linear.weight, generator=torch.Generator().manual_seed(1))
    return linear


def evaluate_without_batch_norm(folder) -> dict[str, float]:
    """Figures of an image do not depend on the batch, and 21 images leave a tail on one process and on two."""
    trainer = monitored(folder, VIT, model={"projector_norm": "layer"}, monitor_images=21)
    draw_probe(trainer)
    return trainer.evaluate()


def main() -> None:
    with tempfile.TemporaryDirectory() as own:
        folders = [own]  # the first rank's is that of the run
        if not dist.is_initialized():
            dist.init_process_group("gloo")
        dist.broadcast_object_list(folders)
        trainer = monitored(Path(folders[0]) / "run", monitor_images=21)
        trainer.train()
        rank = dist.get_rank()
        figures = [
            {name: value for name, value in row.items() if "runtime" not in name and "per_second" not in name}
            for row in rows(trainer, "eval_loss") + rows(trainer, "online_probe_loss")
        ]
        timing = ("monitor_seconds", "monitor_fraction", "data_wait_fraction", "eval_runtime")
        figures = [{name: value for name, value in row.items() if name not in timing} for row in figures]
        weights = [value.double().sum() for value in probe_of(trainer).probe.state_dict().values()]
        weights += [value.double().sum() for value in trainer.model.parameters()]
        both = [None, None]
        dist.all_gather_object(both, (figures, torch.stack(weights).tolist()))
        assert both[0] == both[1], both
        batches = trainer._held_out_images().batches  # 21 images: 11 and 10
        assert sum(batch.num_new for batch in batches) == 11 - rank and sum(batch.weight for batch in batches) == 1
        assert [len(batch.views["global_views"]) for batch in batches] == [8, 8]
        assert len(figures) == 9 and weights[2].abs() > 0
        evaluation = evaluate_without_batch_norm(Path(folders[0]) / "norm")
        dist.barrier()
        if rank == 0:
            sys.stdout.write(json.dumps({"figures": figures, "evaluation": evaluation}) + "\n")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
