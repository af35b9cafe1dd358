"""
Run by torchrun from tests/test_fsdp_checkpoints.py: a run under FSDP2 that is saved, resumed and exported, against one
that is not interrupted and against one process.

`python fsdp_checkpoint_run.py FOLDER STATE_DICT_TYPE`
"""

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from trajectory_run import build, let_fsdp_run_on_cpu

SETTINGS = {"max_steps": 8, "ema_decay": 0.9, "eval_strategy": "steps", "eval_steps": 4, "monitor_images": 24}


def main(folder: str, state_dict_type: str) -> None:
    torch.set_num_threads(1)
    let_fsdp_run_on_cpu()
    from lejepa_hf.system.distributed import whole as entire

    run, world_size = Path(folder) / "run", int(os.environ["WORLD_SIZE"])
    # With checkpointing in one of both: its wrapper must not show in any name.
    fsdp = {"version": 2, "state_dict_type": state_dict_type}
    fsdp["activation_checkpointing"] = state_dict_type == "SHARDED_STATE_DICT"
    settings = {**SETTINGS, "fsdp_config": fsdp, "save_strategy": "steps", "save_steps": 4, "save_total_limit": None}
    whole, expected = build("fsdp", run, 1, False, world_size, **settings)
    whole.train()
    evaluations = [row for row in whole.state.log_history if "eval_loss" in row]
    accuracies = ("eval_knn_top1", "eval_online_probe_top1")
    assert len(evaluations) == 2 and all(name in row for row in evaluations for name in accuracies), evaluations

    again, losses = build("fsdp", run, 1, False, world_size, **settings)
    again.train(resume_from_checkpoint=run / "checkpoint-4")
    assert losses == expected[4:], (losses, expected)
    (last,) = [row for row in again.state.log_history[-3:] if "eval_loss" in row]
    assert all(last[name] == evaluations[1][name] for name in accuracies), (last, evaluations)
    again.save_model(str(Path(folder) / "pretraining"))
    again.encoder_average.save_state(Path(folder) / "pretraining")
    dist.barrier()
    exported = load_file(Path(folder) / "pretraining" / "model.safetensors")
    for name, value in whole.model.state_dict().items():
        assert torch.equal(exported[name], entire(value)), name
    averaged = load_file(Path(folder) / "pretraining" / "encoder_average.safetensors")
    for name, value in whole.encoder_average._average.items():
        assert torch.equal(averaged[name], entire(value)), name
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
