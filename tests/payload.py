"""Files that would run code: a payload that makes a folder, wherever a pickle is read without protection."""

import os
import pickle
import warnings
from pathlib import Path

import torch
import torch.distributed.checkpoint as distributed
from safetensors.torch import save_file
from torch import nn
from torch.distributed.checkpoint.metadata import BytesStorageMetadata
from transformers import TrainerState

from lejepa_hf import LeJEPAForPreTraining


class Payload:
    """Makes the folder `marker` when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


def save_checkpoint(model: LeJEPAForPreTraining, folder: Path, sharded: bool = False) -> Path:
    """What a Trainer leaves behind, of one process; with `sharded`, weights and optimizer as FSDP stores them."""
    optimizer = torch.optim.AdamW(model.parameters())
    nn.Module.zero_grad(model)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    folder.mkdir(parents=True)
    model.config.save_pretrained(folder)
    if sharded:
        save_shards({"model": model.state_dict()}, folder / "pytorch_model_fsdp_0")
        save_shards({"optimizer": {"param_groups": {"lr": 0.1, "betas": (0.9, 0.95)}}}, folder / "optimizer_0")
    else:
        save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
        torch.save(optimizer.state_dict(), folder / "optimizer.pt")
    torch.save(torch.optim.lr_scheduler.StepLR(optimizer, 10).state_dict(), folder / "scheduler.pt")
    TrainerState(global_step=1, max_steps=1000).save_to_json(str(folder / "trainer_state.json"))
    return folder


def save_shards(state: dict, folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        distributed.save(state, checkpoint_id=folder)


def change_metadata(folder: Path, change) -> None:
    """Write `.metadata` again, after a change of the object in it."""
    path = folder / ".metadata"
    content = pickle.loads(path.read_bytes())
    path.write_bytes(pickle.dumps(change(content) or content))


def hide_in_a_shard(folder: Path, payload: Payload) -> None:
    """In the place of a tensor, a value that PyTorch reads as a pickle."""
    file = folder / "__0_0.distcp"
    start = file.stat().st_size
    with file.open("ab") as opened:
        torch.save(payload, opened)

    def point_there(metadata):
        index = next(iter(metadata.storage_data))
        stored = metadata.storage_data[index]
        stored.offset, stored.length = start, file.stat().st_size - start
        metadata.state_dict_metadata[index.fqn] = BytesStorageMetadata()
        metadata.storage_data = {type(index)(index.fqn): stored, **metadata.storage_data}

    change_metadata(folder, point_there)
