"""Run by torchrun from tests/test_encoder_average.py: an average over sharded parameters against one process's."""

import copy
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import TrainerState
from two_process_objective import TINY_VIT

from lejepa_hf import LeJEPAConfig, LeJEPAForPreTraining
from lejepa_hf.system.distributed import local_part
from lejepa_hf.training.encoder_average import EncoderAverage

STEPS = 3


def averaged(model: LeJEPAForPreTraining, average: EncoderAverage, start: int = 0) -> EncoderAverage:
    """Steps that change every weight in a known way."""
    average.on_train_begin(None, TrainerState(global_step=start), None, model=model)
    for step in range(start + 1, STEPS + 1):
        with torch.no_grad():
            [local_part(parameter).mul_(1 + 0.1 * step) for parameter in model.parameters()]
        average.on_step_end(None, TrainerState(global_step=step), None, model=model)
    return average


def main() -> None:
    torch.manual_seed(0)
    alone = LeJEPAForPreTraining(LeJEPAConfig(backbone_config=TINY_VIT, projector_dims=[8]))
    model = copy.deepcopy(alone)
    expected = averaged(alone, EncoderAverage(0.5))._average

    dist.init_process_group("gloo")
    fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    average = averaged(model, EncoderAverage(0.5))
    held = sum(local_part(value).numel() for value in average._average.values())
    assert held < 0.6 * sum(value.numel() for value in expected.values()), "not sharded"
    folders = [tempfile.mkdtemp()]
    dist.broadcast_object_list(folders)
    folder = Path(folders[0])
    average.save_state(folder)
    dist.barrier()
    found = load_file(folder / "encoder_average.safetensors")
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=0)

    again = averaged(model, EncoderAverage(0.5), start=STEPS)
    again.load_state(folder)
    for name, value in again._average.items():
        assert torch.equal(local_part(value), local_part(average._average[name])), name
    print(f"rank {dist.get_rank()} agrees")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
