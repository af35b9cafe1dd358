from pathlib import Path

import pytest
import torch

from lejepa_hf import LeJEPAConfig, LeJEPAForPreTraining
from lejepa_hf.hub.export import build_processor


@pytest.fixture
def run(tiny_resnet, tmp_path) -> Path:
    torch.manual_seed(0)
    model = LeJEPAForPreTraining(LeJEPAConfig(backbone_config=tiny_resnet, projector_dims=[8]))
    model.save_pretrained(tmp_path / "run" / "pretraining")
    build_processor(16, crop_ratio=1.0).save_pretrained(tmp_path / "run" / "pretraining")
    return tmp_path / "run"
