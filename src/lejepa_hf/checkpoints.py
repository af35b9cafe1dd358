"""Which checkpoints of a run can be trusted."""

import re
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from transformers import TrainerState

_STATE = "trainer_state.json"
# The names of one process and DDP, then those of FSDP: whole, sharded.
_WEIGHTS = ("model*.safetensors", "pytorch_model_fsdp.bin", "pytorch_model_fsdp_*")
_OPTIMIZER = ("optimizer.pt", "optimizer.bin", "optimizer_*")


def is_complete(checkpoint: Path) -> bool:
    """Whether a save ran to its end: the Trainer writes its state last, and weights must be as long as they claim."""
    try:
        TrainerState.load_from_json(str(checkpoint / _STATE))
        for weights in checkpoint.glob("*.safetensors"):
            with safe_open(weights, framework="pt"):
                pass
    except (OSError, ValueError, TypeError, SafetensorError):
        return False
    return all(any(any(checkpoint.glob(form)) for form in forms) for forms in (_WEIGHTS, _OPTIMIZER))


def complete_checkpoints(run: str | Path) -> list[Path]:
    """The complete checkpoints of a run folder, newest first."""
    numbered = [(re.fullmatch(r"checkpoint-(\d+)", path.name), path) for path in Path(run).glob("checkpoint-*")]
    ordered = sorted(((int(match[1]), path) for match, path in numbered if match), reverse=True)
    return [path for _, path in ordered if is_complete(path)]


def last_finite_checkpoint(run: str | Path) -> Path | None:
    """The newest complete checkpoint without NaN or infinity in its weights."""
    for checkpoint in complete_checkpoints(run):
        if all(_is_finite(weights) for weights in checkpoint.glob("*.safetensors")):
            return checkpoint
    return None


def _is_finite(weights: Path) -> bool:
    with safe_open(weights, framework="pt") as file:
        return all(bool(torch.isfinite(file.get_tensor(name)).all()) for name in file.offset_keys())


def resolve_resume(resume: str, run: str | Path) -> Path:
    """
    The checkpoint to continue from.

    Args:
        resume (`str`): `"auto"` or a checkpoint folder.
        run (`str` or `Path`): The run folder.

    Returns:
        `Path`: A complete checkpoint.

    Raises:
        ValueError: If there is none.
    """
    if resume == "auto":
        found = complete_checkpoints(run)
        if not found:
            raise ValueError(f"`resume`: no complete checkpoint in {str(run)!r}; start anew without `--resume`.")
        return found[0]
    if not is_complete(Path(resume)):
        others = ", ".join(path.name for path in complete_checkpoints(run)) or "none"
        raise ValueError(f"`resume` {resume!r} is no complete checkpoint; complete ones in {str(run)!r}: {others}.")
    return Path(resume)
