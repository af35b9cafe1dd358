"""Which checkpoints of a run can be trusted."""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from transformers import TrainerState

from ..data.reader_state import position_file
from ..system.run_folder import RunFolder
from .resume_settings import saved_world_size

STATE_FILE = "trainer_state.json"
# The names of one process and DDP, then those of FSDP: whole, sharded.
_WEIGHTS = ("model*.safetensors", "pytorch_model_fsdp.bin", "pytorch_model_fsdp_*")
_OPTIMIZER = ("optimizer.pt", "optimizer.bin", "optimizer_*")


class CheckpointNotWritten(Exception):
    """A checkpoint could not be written, for lack of space or rights; earlier ones are untouched."""


def is_complete(checkpoint: Path) -> bool:
    """
    Whether a checkpoint was saved completely: the Trainer writes its state last, weight files must have the length
    that their header states, and each process of the run must have written its part.
    """
    try:
        TrainerState.load_from_json(str(checkpoint / STATE_FILE))
        for weights in checkpoint.glob("*.safetensors"):
            with safe_open(weights, framework="pt"):
                pass
        ranks = range(saved_world_size(checkpoint) or 0)
    except (OSError, ValueError, TypeError, SafetensorError):
        return False
    if not all((checkpoint / position_file(rank)).is_file() for rank in ranks):
        return False
    return all(any(any(checkpoint.glob(form)) for form in forms) for forms in (_WEIGHTS, _OPTIMIZER))


def complete_checkpoints(run: str | Path) -> list[Path]:
    """The complete checkpoints of a run folder, newest first."""
    return [path for path in reversed(RunFolder(run).checkpoints()) if is_complete(path)]


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
    if that has none yet, so that the same command starts a run and restarts it, as clusters do. A folder that is
    not a complete checkpoint is refused, and a run with results but no checkpoint.
    """
    if resume == "auto":
        found = complete_checkpoints(run)
        results = [name for name in ("encoder", "pretraining", "results.json") if (Path(run) / name).exists()]
        if not found and results:
            raise ValueError(
                f"`resume`: {str(run)!r} has {', '.join(results)} but no complete checkpoint to continue from: give a "
                f"new run another `output_dir`, and its weights with `--continue_from {run}`."
            )
        return found[0] if found else None
    if not is_complete(Path(resume)):
        others = ", ".join(path.name for path in complete_checkpoints(run)) or "none"
        message = f"`resume` {resume!r} is not a complete checkpoint; complete ones in {str(run)!r}: {others}."
        if not Path(resume).exists() and resume.count("/") == 1 and resume[0] not in "./~":
            message += " If it is an id of the Hub: optimizer state is never published, so a run cannot be resumed "
            message += f"from there; a new run starts from its network with `--continue_from {resume}`."
        raise ValueError(message)
    return Path(resume)
