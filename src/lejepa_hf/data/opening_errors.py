"""An error from opening a dataset -> one line with the way out."""

import difflib
import re
import tarfile
from pathlib import Path
from pickle import UnpicklingError

from ..system.damaged_files import reading_failure
from .network import is_network_error, status_of


def explained(error: Exception, name: str, split: str, path: str, files: str, on_hub: bool) -> ValueError | None:
    """
    Say in one line what to do about an error of `datasets`, the Hub's client, a web client or a reader of files.

    `name` is what the user gave, `path` a dataset id or the name of the reader of `files`; None for other causes.
    """
    from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError, DatasetsError
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

    if isinstance(error, DatasetGenerationError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    what = f"`dataset` {name!r}"
    reason = without_secrets(" ".join(str(error).split())).rstrip(".")
    repository = re.search(r"hf://datasets/([^/@]+/[^/@]+)", files)
    on_hub = on_hub or repository is not None
    page = f"{constants.ENDPOINT}/datasets/{repository[1] if repository else path}"
    status = status_of(error)
    denied = isinstance(error, HfHubHTTPError) and status in (401, 403)
    if isinstance(error, GatedRepoError) or denied or re.search(r"gated (dataset|repo)\b", reason):
        return ValueError(f"{what} is gated: accept its terms on {page}, then log in with `hf auth login`.")
    if isinstance(error, DatasetNotFoundError) and reason.startswith("Revision"):
        return ValueError(f"{what} cannot be opened, check `revision`: {reason}.")
    if isinstance(error, DatasetNotFoundError):
        return ValueError(not_found(name, path))
    if status is not None:
        return ValueError(f"{what}: the {'Hub' if on_hub else 'server'} answered with status {status}.")
    # The latter if another part of the set was opened before: `datasets` then looks for this one in its cache.
    nothing = "all the data_files are invalid" in reason or "Couldn't find cache" in reason and files != "None"
    if isinstance(error, FileNotFoundError) or nothing:
        reason = without_secrets(f"no file meets {files}") if nothing else reason
        if not on_hub:
            return ValueError(f"{what} was not found, or its server does not answer: {reason}")
        login = f" For a private or gated set, see {page} and log in with `hf auth login`." if repository else ""
        return ValueError(f"{what} has no images: {reason}.{login}")
    if is_network_error(error):
        where = "is not a folder here, and the Hub " if on_hub and not repository else ""
        return ValueError(f"{what} {where}cannot be reached: {reason}")
    if "scripts are no longer supported" in reason:
        return ValueError(
            f"{what} is a program ({reason.split()[-1]}), which is never run: use its Parquet files, for a dataset of "
            "the Hub with `revision: refs/convert/parquet`."
        )
    if "should be in WebDataset format" in reason or "Duplicate field" in reason:
        found = "several files of one name" if "Duplicate" in reason else "different kinds of files"
        return ValueError(
            f"{what} has samples with {found}, among the first ones of a tar: each needs one image and the same other "
            "files under one name (001.jpg, 001.cls; 002.jpg, 002.cls), next to each other. Pack them again sorted by "
            "name, with `tar --sort=name -cf NEW.tar -C FOLDER .` for example, without the samples that lack a file."
        )
    if isinstance(error, UnpicklingError):
        return ValueError(f"{what} cannot be read: one of its files {reading_failure(error)}.")
    known = isinstance(error, OSError | ValueError | DatasetsError | tarfile.TarError)
    return unknown_split(name, split, reason) if known else None


def not_found(name: str, path: str | None = None) -> str:
    """What the user can do about a name that stands for nothing; `path` is the dataset id, if it is another one."""
    from huggingface_hub import constants

    return (
        f"`dataset` {name!r} was not found: it is neither 'digits', a folder here, nor a dataset of the Hub that can "
        "be reached with this login. Check the spelling; for a private set log in with `hf auth login`, for a gated "
        f"one also accept its terms on {constants.ENDPOINT}/datasets/{path or name}."
    )


def without_secrets(text: str) -> str:
    """A text without the signatures and passwords of its urls."""
    return re.sub(r"(://[^\s'\"?]+)\?[^\s'\"]+", r"\1?...", re.sub(r"://[^/@\s]+@", "://...@", text))


def unknown_split(name: str, split: str, reason: object) -> ValueError:
    """The error for a split or configuration that does not exist; the message of `datasets` names those that do."""
    if "corresponds to no data" in str(reason):
        return ValueError(f"`dataset` {name!r} has no images: the split {split!r} is empty.")
    if "config name is missing" in str(reason).lower() or "builderconfig" in str(reason).lower():
        return ValueError(f"`dataset` {name!r} has other configurations, set `config` to one of them: {reason}")
    if "split" not in str(reason).lower():
        return ValueError(f"`dataset` {name!r} cannot be read: {reason}")
    return ValueError(f"`dataset` {name!r} has no split {split!r}: {reason}")


def nearby(name: str) -> str:
    """A sentence that says which files there are beside a path that does not exist."""
    parent = Path(name).parent
    if not parent.is_dir():
        return f"The folder {str(parent)!r} does not exist either."
    entries = sorted(entry.name for entry in parent.iterdir())
    close = difflib.get_close_matches(Path(name).name, entries) or entries[:8]
    return f"{str(parent)!r} holds {', '.join(close) or 'nothing'}."
