"""Runs under FSDP2: checkpoints in shards or whole, resumed bit by bit, exported whole."""

from pathlib import Path

import fsdp_checkpoint_run
import pytest

from lejepa_hf import LeJEPAForPreTraining
from lejepa_hf.hub.export import export_encoder
from lejepa_hf.training.checkpoints import complete_checkpoints


@pytest.mark.slow
@pytest.mark.parametrize(
    "state_dict_type", ["SHARDED_STATE_DICT", pytest.param("FULL_STATE_DICT", marks=pytest.mark.slow)]
)
def test_resumed_bit_by_bit_and_exported_whole(two_processes, tmp_path, state_dict_type):
    two_processes(Path(fsdp_checkpoint_run.__file__), str(tmp_path), state_dict_type)
    checkpoint = tmp_path / "run" / "checkpoint-8"
    assert complete_checkpoints(tmp_path / "run")[0] == checkpoint
    sharded = list(checkpoint.glob("pytorch_model_fsdp_0/*.distcp"))
    assert len(sharded) == (2 if state_dict_type == "SHARDED_STATE_DICT" else 0)
    LeJEPAForPreTraining.from_pretrained(tmp_path / "pretraining")
    if state_dict_type == "FULL_STATE_DICT":  # FSDP's file alone, beside which the Trainer leaves its own
        (checkpoint / "model.safetensors").unlink()
    before = {path: path.read_bytes() for path in checkpoint.rglob("*") if path.is_file()}
    for averaged in (False, True):
        whole, encoder = export_encoder(tmp_path, averaged=averaged), export_encoder(checkpoint, averaged=averaged)
        assert encoder.parent == tmp_path / "run"
        for name in ("model.safetensors", "config.json", "preprocessor_config.json"):
            assert (encoder / name).read_bytes() == (whole / name).read_bytes(), name
    assert {path: path.read_bytes() for path in checkpoint.rglob("*") if path.is_file()} == before
    assert complete_checkpoints(tmp_path / "run")[0] == checkpoint

    if sharded:
        sharded[1].unlink()
        with pytest.raises(ValueError, match="checkpoint-8' cannot be read .* choose another checkpoint"):
            export_encoder(checkpoint)
