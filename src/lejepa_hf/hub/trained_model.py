"""Finds the trained model of a run and reads it in one process, whatever it was trained on."""

import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError

from ..configuration_lejepa import LeJEPAConfig
from ..model.loading_errors import refuse_not_finite
from ..modeling_lejepa import LeJEPAForPreTraining
from ..system.distributed import read_shards_
from ..system.run_folder import RunFolder

# Names in a checkpoint: a folder of shards, or one file with all weights.
FSDP_SHARDS, FSDP_WEIGHTS = "pytorch_model_fsdp_0", "pytorch_model_fsdp.bin"


def trained_folder(run: str | Path) -> Path:
    """
    The folder that contains the model: `pretraining/` of a run folder, otherwise `run`, which then is such a folder or
    a checkpoint. ValueError if there is no model.
    """
    run_folder = RunFolder(run)
    folder = run_folder.pretraining if run_folder.pretraining.is_dir() else run_folder.path
    if (folder / "config.json").is_file():
        return folder
    checkpoints = [path.name for path in run_folder.checkpoints()]
    hint = f" The run did not end; choose one of its checkpoints: {', '.join(checkpoints)}." if checkpoints else ""
    raise ValueError(f"{str(run)!r} holds neither pretraining/ nor a checkpoint: no config.json there.{hint}")


def read_trained_model(folder: Path) -> LeJEPAForPreTraining:
    """
    The model in a folder from [`trained_folder`], with its trained weights, on the CPU. Checkpoints of FSDP are read
    without starting processes. ValueError if weights are missing, cannot be read, or are NaN or infinite.
    """
    model = _read(folder)
    refuse_not_finite("run", folder, model)
    return model


def _read(folder: Path) -> LeJEPAForPreTraining:
    try:
        if any(folder.glob("model*.safetensors")):
            return LeJEPAForPreTraining.from_pretrained(folder)
        if not (folder / FSDP_SHARDS).is_dir() and not (folder / FSDP_WEIGHTS).is_file():
            raise ValueError(f"{str(folder)!r} has a config.json and no weights: choose a complete checkpoint.")
        model = LeJEPAForPreTraining(LeJEPAConfig.from_pretrained(folder))
        if (folder / FSDP_SHARDS).is_dir():
            weights = model.state_dict()
            read_shards_(weights, folder / FSDP_SHARDS)
        else:
            weights = torch.load(folder / FSDP_WEIGHTS, map_location="cpu", weights_only=True)
        model.load_state_dict(weights)
        return model
    except (OSError, EOFError, IndexError, RuntimeError, SafetensorError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"The weights in {str(folder)!r} cannot be read ({error}): choose another checkpoint."
        ) from error
