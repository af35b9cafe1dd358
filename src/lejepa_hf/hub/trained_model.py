"""Finds the trained model of a run and reads it in one process, whatever it was trained on."""

import textwrap
from pathlib import Path

import torch

from ..configuration_lejepa import LeJEPAConfig
from ..model.loading_errors import refuse_not_finite, refuse_unfilled
from ..modeling_lejepa import LeJEPAForPreTraining
from ..system.damaged_files import first_damage
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
    without starting processes. Nothing in the files is run. ValueError if weights are missing, cannot be read, or are
    NaN or infinite.
    """
    model = _read(folder)
    refuse_not_finite("run", folder, model)
    return model


def _read(folder: Path) -> LeJEPAForPreTraining:
    fsdp = [path for path in (folder / FSDP_SHARDS, folder / FSDP_WEIGHTS) if path.exists()]
    files = sorted(folder.glob("model*.safetensors")) or fsdp[:1]
    if not files:
        raise ValueError(f"{str(folder)!r} has a config.json and no weights: choose a complete checkpoint.")
    problem = first_damage([folder / "config.json", *files])
    try:
        if problem is None:
            return _filled_from_fsdp(folder, files[0]) if files == fsdp[:1] else _loaded(folder)
    except (OSError, RuntimeError) as error:
        problem = textwrap.shorten(str(error), 300)
    raise ValueError(f"The weights in {str(folder)!r} cannot be read ({problem}): choose another checkpoint.")


def _loaded(folder: Path) -> LeJEPAForPreTraining:
    found: tuple[LeJEPAForPreTraining, dict] = LeJEPAForPreTraining.from_pretrained(folder, output_loading_info=True)  # type: ignore[assignment]
    model, loaded = found
    refuse_unfilled("model", folder, model.config.model_type, loaded)
    return model


def _filled_from_fsdp(folder: Path, weights: Path) -> LeJEPAForPreTraining:
    model = LeJEPAForPreTraining(LeJEPAConfig.from_pretrained(folder))
    values = model.state_dict()
    if weights.is_dir():
        read_shards_(values, weights)
    else:
        values = torch.load(weights, map_location="cpu", weights_only=True)
    model.load_state_dict(values)
    return model
