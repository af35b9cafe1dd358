"""Errors of loading a model from a folder or the Hub, as one line with the way out."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError

import torch
from huggingface_hub import constants, errors
from safetensors import SafetensorError
from torch import nn

from ..system.damaged_files import first_damage, reading_failure
from ..system.durable_files import NO_ROOM
from ..system.error_text import reason_of, with_causes

_WEIGHTS = (".pth", ".pt", ".ckpt", ".safetensors")
_FILES = ("*.json", "*.safetensors", "pytorch_model*.bin")


def refuse_unfilled(field: str, name: str | Path, model_type: str, loaded: dict, may_miss: str | None = None) -> None:
    """
    Refuse a checkpoint that leaves weights of the model random.

    `loaded` is what `from_pretrained` returns with `output_loading_info`. Weights whose names begin with `may_miss`
    may be missing; see [`explained`] for `field` and `name`.
    """
    missing = sorted(key for key in loaded["missing_keys"] if may_miss is None or not key.startswith(may_miss))
    unfilled = missing + sorted(str(key) for key in loaded["mismatched_keys"])
    if unfilled:
        raise ValueError(
            f"`{field}` {str(name)!r} leaves {len(unfilled)} weights of a {model_type} unfilled "
            f"({', '.join(unfilled[:3])}): it is a checkpoint of another architecture."
        )


def refuse_not_finite(field: str, name: str | Path, model: nn.Module) -> None:
    """
    Refuse a model with weights, or statistics of batch norm, that are NaN or infinite, and say how many tensors of how
    many and which ones; see [`explained`] for `field` and `name`. Other buffers may be infinite, as masks are.
    """
    tensors: dict[str, torch.Tensor] = dict(model.named_parameters())
    tensors |= {key: value for key, value in model.named_buffers() if key.endswith(("running_mean", "running_var"))}
    broken = [key for key, value in tensors.items() if not value.isfinite().all()]
    if broken:
        raise ValueError(
            f"`{field}` {str(name)!r} has weights that are NaN or infinite: {len(broken)} of {len(tensors)} tensors "
            f"are not finite ({', '.join(broken[:3])}{', ...' if len(broken) > 3 else ''}). Use another checkpoint."
        )


@contextmanager
def _named_files(field: str, name: str | Path, folder: Path) -> Iterator[None]:
    """Refuse code of the repository, and name the file that cannot be read; other errors pass."""
    try:
        yield
    except (OSError, SafetensorError, UnpicklingError) as error:
        damage = first_damage(sorted(path for form in _FILES for path in folder.glob(form)))
        if damage is None and isinstance(error, OSError):
            raise
        damage = damage or f"one of its files {reading_failure(error)}"
        raise ValueError(f"`{field}` {str(name)!r} cannot be read: {damage}.") from error
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise ValueError(
            f"`{field}` {str(name)!r} needs Python code from its own repository (`auto_map` in its files), which is "
            "never run here: choose a model of a class that transformers has."
        ) from error


@contextmanager
def explained(field: str, name: str | Path, folder: str | Path | None = None) -> Iterator[None]:
    """
    Turn errors of a block that loads a model into a `ValueError` with the field, the value and the way out.

    `field` is the argument that names the model (`pretrained_backbone`, `encoder`), and `name` its value: a folder or
    an id on the Hub, with or without `@revision`. `folder` is the folder that is read, if it is not `name` itself. A
    file of weights alone is refused.
    """
    if Path(name).is_file() or (Path(name).suffix.lower() in _WEIGHTS and not Path(name).is_dir()):
        raise ValueError(
            f"`{field}` {str(name)!r} is a file of weights, which does not say what network they belong to: build the "
            "network, load the file into it (`model.load_state_dict(torch.load(file, weights_only=True))`), save both "
            "as a folder with `model.save_pretrained(folder)` of transformers, or "
            "`timm.models.save_for_hf(model, folder)`, and name the folder."
        )
    try:
        with _named_files(field, name, Path(name if folder is None else folder)):
            yield
    except (OSError, errors.HFValidationError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not _is_no_room(error):  # hf_xet raises it for a full disk
            raise
        raise ValueError(f"`{field}` {str(name)!r} {_way_out(list(with_causes(error)), str(name))}") from error


def _is_no_room(error: BaseException) -> bool:
    is_code = isinstance(error, OSError) and error.errno in NO_ROOM
    return is_code or "(os error 28)" in str(error)  # ENOSPC in Rust's words


def _way_out(causes: list[BaseException], name: str) -> str:
    repo_id, _, revision = name.partition("@")
    where = constants.ENDPOINT
    reason = reason_of(causes[0])

    def has(kind: type) -> bool:
        return any(isinstance(cause, kind) for cause in causes)

    if has(errors.HFValidationError):
        return "is neither a folder here nor a name of a repository of the Hub, 'user/name'."
    if any(map(_is_no_room, causes)):
        cache = Path(constants.HF_HUB_CACHE)
        cache = next(folder for folder in (cache, *cache.parents) if folder.is_dir())
        return (
            f"cannot be downloaded, there is no room for it in {str(cache)!r} ({reason}; "
            f"{shutil.disk_usage(cache).free / 2**20:,.0f} MiB are free): make room there, or let HF_HOME name a "
            "folder with more. Nothing incomplete is kept: the same command starts it again."
        )
    if has(errors.GatedRepoError):
        return (
            f"is gated: accept its terms on {where}/{repo_id}, then log in as that account with `hf auth login`, or "
            "set HF_TOKEN."
        )
    if has(errors.RepositoryNotFoundError):
        return (
            "was not found: it is neither a folder here nor a repository of the Hub that this login can read. Check "
            "the spelling; for a private one log in with `hf auth login`, or set HF_TOKEN."
        )
    if has(errors.RevisionNotFoundError):
        return f"has no branch, tag or commit {revision!r}: see {where}/{repo_id}/tree/main."
    if any(isinstance(cause, errors.HfHubHTTPError) and cause.response.status_code == 401 for cause in causes):
        return (
            f"cannot be read: {where} does not accept this login. Make a new token at {where}/settings/tokens, then "
            "`hf auth login`, or set HF_TOKEN; or log out to read what is public."
        )
    if has(errors.LocalEntryNotFoundError):
        offline = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"{where} cannot be reached"
        return f"is neither a folder here nor in the cache {constants.HF_HUB_CACHE!r}, and {offline}."
    if "preprocessor_config.json" in reason:
        return (
            "has no preprocessor_config.json, which says how images become its pixel values: save an image processor "
            "beside it, for example `BitImageProcessor(...).save_pretrained(folder)` of transformers with the size, "
            "mean and standard deviation that it was trained with."
        )
    return f"cannot be loaded from a folder here or the Hub: {reason}"
