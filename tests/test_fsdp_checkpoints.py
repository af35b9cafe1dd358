"""Runs under FSDP2: checkpoints in shards or whole, resumed bit by bit, exported whole."""

from pathlib import Path

import fsdp_checkpoint_run
import pytest

from lejepa_hf import LeJEPAForPreTraining
from lejepa_hf.checkpoints import complete_checkpoints
from lejepa_hf.hub.export import export_encoder


@pytest.mark.parametrize("state_dict_type", ["SHARDED_STATE_DICT", "FULL_STATE_DICT"])
def test_resumed_bit_by_bit_and_exported_whole(two_processes, tmp_path, state_dict_type):
    two_processes(Path(fsdp_checkpoint_run.__file__), str(tmp_path), state_dict_type)
    checkpoint = tmp_path / "run" / "checkpoint-8"
    assert complete_checkpoints(tmp_path / "run")[0] == checkpoint
    sharded = list(checkpoint.glob("pytorch_model_fsdp_0/*.distcp"))
    assert len(sharded) == (2 if state_dict_type == "SHARDED_STATE_DICT" else 0)
    LeJEPAForPreTraining.from_pretrained(tmp_path / "pretraining")
    assert (export_encoder(tmp_path) / "model.safetensors").is_file()
    assert (export_encoder(tmp_path, averaged=True) / "model.safetensors").is_file()
