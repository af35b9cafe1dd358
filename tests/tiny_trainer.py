"""A Trainer of a tiny model, shared by tests; it needs `datasets` only for the digits that it trains on by default."""

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from lejepa_hf import (
    LeJEPAConfig,
    LeJEPAForPreTraining,
    LeJEPATrainer,
    LeJEPATrainingArguments,
    MultiCropCollator,
    MultiCropTransform,
)
from lejepa_hf.data.sources import load_source


class Images(Dataset):
    """Rows that need no `datasets`, which a machine that lends its GPU may not have."""

    def __init__(self, number: int, seed: int = 0):
        self.pixels = np.random.default_rng(seed).integers(0, 256, (number, 16, 16, 3), dtype=np.uint8)

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, index):
        return {"image": Image.fromarray(self.pixels[index])}


class LabelledImages(Images):
    """The same with ten classes in turn."""

    def __getitem__(self, index):
        return {**super().__getitem__(index), "label": index % 10}


TRANSFORM = MultiCropTransform(num_local_views=2, global_crop_size=16, local_crop_size=8, blur_kernel_size=5)


def model_for(backbone, **kwargs):
    torch.manual_seed(0)
    settings = {"projector_dims": [16, 8], "num_slices": 16} | kwargs
    return LeJEPAForPreTraining(LeJEPAConfig(backbone_config=backbone, **settings))


def trainer_for(folder, model, dataset=None, eval_dataset=None, label_column=None, **kwargs):
    settings = {
        "max_steps": 6,
        "per_device_train_batch_size": 8,
        "save_steps": 3,
        "logging_steps": 1,
        "use_cpu": True,
        "disable_tqdm": True,
        "seed": 0,
    }
    return LeJEPATrainer(
        model=model,
        args=LeJEPATrainingArguments(output_dir=str(folder), **settings | kwargs),
        train_dataset=load_source("digits").dataset if dataset is None else dataset,
        eval_dataset=eval_dataset,
        data_collator=MultiCropCollator(TRANSFORM, label_column=label_column),
    )


def losses(trainer):
    return [(row["step"], row["loss"]) for row in trainer.state.log_history if "loss" in row]
