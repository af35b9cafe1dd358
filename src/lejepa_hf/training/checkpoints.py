"""Which checkpoints of a run can be trusted."""

import json
import logging
import shutil
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import TrainerState

from ..data.reader_state import position_file
from ..system.damaged_files import READING_ERRORS, first_damage
from ..system.distributed import is_first_rank
from ..system.error_text import reason_of
from ..system.run_folder import RunFolder
from .resume_settings import read_settings

logger = logging.getLogger("lejepa_hf")

STATE_FILE = "trainer_state.json"
# The names of one process and DDP, then those of FSDP: whole, sharded.
_WEIGHTS = ("model*.safetensors", "pytorch_model_fsdp.bin", "pytorch_model_fsdp_*")
_OPTIMIZER = ("optimizer.pt", "optimizer.bin", "optimizer_*")
_SCHEDULE = ("scheduler.pt",)
_NO_WEIGHTS = "the file of the weights"
# Everything that resuming reads. Stock Trainers also leave `training_args.bin`, a pickle that nothing reads.
_READ = (*_WEIGHTS, *_OPTIMIZER, *_SCHEDULE, "scaler.pt", "rng_state*.pth", "*.safetensors", "*.json")


class CheckpointNotWritten(Exception):
    """A checkpoint could not be written, for lack of space or rights; earlier ones are untouched."""


def damage_of_checkpoint(checkpoint: Path, thorough: bool = False) -> str | None:
    """
    Why training cannot resume from a checkpoint, as one line that names the file; None if it can.

    The Trainer writes its state last, each process of the run must have written its part, and each file that resuming
    reads must be one that can be read without running code. `thorough` also compares checksums, which reads all of
    the optimizer's state.
    """
    missing = _missing(checkpoint)
    if missing:
        return f"{missing} is missing"
    found = sorted({path for form in _READ for path in checkpoint.glob(form) if path.suffix or path.is_dir()})
    damage = first_damage(found, thorough)
    if damage:
        return damage
    try:
        TrainerState.load_from_json(str(checkpoint / STATE_FILE))
        expected = _named_in_files(checkpoint)
    except READING_ERRORS as error:
        return f"{STATE_FILE} or another description is damaged ({reason_of(error)})"
    absent = next((name for name in expected if not (checkpoint / name).is_file()), None)
    return f"{absent} is missing" if absent else None


def damage_of_weights(checkpoint: Path) -> str | None:
    """Why the model of a checkpoint cannot be loaded: the damage of its weights alone, averaged ones too."""
    found = sorted({path for form in _WEIGHTS for path in checkpoint.glob(form) if path.suffix or path.is_dir()})
    return first_damage([*found, *checkpoint.glob("*.safetensors")]) if found else f"{_NO_WEIGHTS} is missing"


def _missing(checkpoint: Path) -> str | None:
    kinds = {_NO_WEIGHTS: _WEIGHTS, "the optimizer's state": _OPTIMIZER, _SCHEDULE[0]: _SCHEDULE}
    if not (checkpoint / STATE_FILE).is_file():
        return STATE_FILE
    return next((name for name, forms in kinds.items() if not any(any(checkpoint.glob(f)) for f in forms)), None)


def _named_in_files(checkpoint: Path) -> Iterable[str]:
    """Files that a checkpoint must have according to others: of each process, and the parts of split weights."""
    ranks = range(read_settings(checkpoint).get("world_size") or 0)
    # Not as lists: a damaged number of processes may be of any size.
    names: list[Iterable[str]] = [map(position_file, ranks)]
    names.append(["rng_state.pth"] if len(ranks) == 1 else (f"rng_state_{rank}.pth" for rank in ranks))
    for index in checkpoint.glob("*.safetensors.index.json"):
        parts = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        outside = [part for part in parts if Path(part).name != part]
        if outside:
            raise ValueError(f"{index.name} names {outside[0]!r}, outside of the checkpoint")
        names.append(sorted(parts))
    return chain.from_iterable(names)


def complete_checkpoints(run: str | Path) -> list[Path]:
    """The complete checkpoints of a run folder, newest first."""
    return [path for path in reversed(RunFolder(run).checkpoints()) if damage_of_checkpoint(path) is None]


def delete_older(run: str | Path, limit: int | None, kept: set[Path]) -> None:
    """
    Delete checkpoints of a run folder until at most `limit` are left (None or 0: all), never those in `kept`.

    Incomplete ones go first, then those of the earliest steps: the clock may have been set back since they were
    written. A run that resumed from an earlier step has others of later steps, so the one just written is in `kept`.
    """
    run_folder = RunFolder(run)
    others = [path for path in run_folder.checkpoints() if path not in kept]
    surplus = len(run_folder.checkpoints()) - (limit or 0)
    if limit and surplus > 0:
        # Stable: by step among equals.
        for path in sorted(others, key=lambda path: damage_of_checkpoint(path) is None)[:surplus]:
            shutil.rmtree(path, ignore_errors=True)


def last_finite_checkpoint(run: str | Path) -> Path | None:
    """The newest complete checkpoint without NaN or infinity in its weights."""
    complete = complete_checkpoints(run)
    return next((path for path in complete if all(map(_is_finite, path.glob("*.safetensors")))), None)


def _is_finite(weights: Path) -> bool:
    with safe_open(weights, framework="pt") as file:
        return all(bool(torch.isfinite(file.get_tensor(name)).all()) for name in file.offset_keys())


def resolve_resume(resume: str, run: str | Path) -> Path | None:
    """
    The checkpoint to resume from: the folder `resume`, or with `"auto"` the newest complete one of a run folder; None
    if that has none yet, so that the same command starts a run and restarts it, as clusters do.

    With `"auto"` a damaged checkpoint is skipped with a warning, in favour of the one before. ValueError for a folder
    that is not a complete checkpoint, for a run with results but no checkpoint, and for one whose checkpoints are all
    damaged; the message names the file.
    """
    return _newest_complete(run) if resume == "auto" else _complete_one(resume, run)


def _newest_complete(run: str | Path) -> Path | None:
    damages: list[str] = []
    for path in reversed(RunFolder(run).checkpoints()):
        damage = damage_of_checkpoint(path, thorough=True)
        if damage is None:
            if damages and is_first_rank():
                logger.warning(f"`resume`: {'; '.join(damages)}. Training continues from {path.name}.")
            return path
        damages.append(f"{path.name} is skipped, because {damage}")
    if damages:
        raise ValueError(
            f"`resume`: {str(run)!r} has no complete checkpoint; {'; '.join(damages)}. Copy the file again from an "
            "intact source, or give a new run another `output_dir`."
        )
    results = [name for name in ("encoder", "pretraining", "results.json") if (Path(run) / name).exists()]
    if results:
        raise ValueError(
            f"`resume`: {str(run)!r} has {', '.join(results)} but no complete checkpoint to continue from: give a "
            f"new run another `output_dir`, and its weights with `--continue_from {run}`."
        )
    return None


def _complete_one(resume: str, run: str | Path) -> Path:
    checkpoint = Path(resume)
    damage = damage_of_checkpoint(checkpoint, thorough=True)
    if damage is None:
        return checkpoint
    others = ", ".join(path.name for path in complete_checkpoints(run)) or "none"
    reason = f" ({damage})" if checkpoint.is_dir() else ""
    message = f"`resume` {resume!r} is not a complete checkpoint{reason}; complete ones in {str(run)!r}: {others}."
    if not checkpoint.exists() and resume.count("/") == 1 and resume[0] not in "./~":
        message += " If it is an id of the Hub: optimizer state is never published, so a run cannot be resumed "
        message += f"from there; a new run starts from its network with `--continue_from {resume}`."
    raise ValueError(message)
