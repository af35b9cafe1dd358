"""Names that stand for no images are refused at once; without a network `datasets` would try for half a minute."""

import difflib
import os
from pathlib import Path

from .dataset_files import FILE_KINDS
from .opening_errors import nearby, not_found
from .readers.addresses import ARRAY_ENDINGS


def refuse_missing_path(name: str) -> None:
    """
    Raise ValueError for a path that does not exist, and for any other name that the Hub does not know, or while it
    cannot be reached. Takes a second: neither torch nor `datasets` is imported.
    """
    refuse_impossible_path(name)
    if _is_cached(name) or (reason := _why_not_on_the_hub(name)) is None:
        return
    entries = [str(path) for path in Path(name).parent.iterdir()] if Path(name).parent.is_dir() else []
    close = difflib.get_close_matches(name, entries, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"{reason}{hint}")


def refuse_impossible_path(name: str) -> None:
    """Raise ValueError for a path that does not exist and cannot be an id of the Hub, and for a single image."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    what = f"`dataset` {name!r}"
    if os.path.isfile(name):
        endings = ", ".join([ending for kind in FILE_KINDS.values() for ending in kind] + [*ARRAY_ENDINGS])
        raise ValueError(f"{what} is a single file: name the folder with the images, or files that end in {endings}.")
    try:
        validate_repo_id(name)
    except HFValidationError:
        raise ValueError(f"{what}: no such folder. {nearby(name.rstrip('/'))}") from None


def _is_cached(name: str) -> bool:
    """Whether a dataset of the Hub was downloaded before, so that it opens without a network."""
    from huggingface_hub import constants

    # As `datasets` finds it, whose import takes that of torch.
    of_datasets = Path(os.environ.get("HF_DATASETS_CACHE", Path(constants.HF_HOME) / "datasets"))
    of_the_hub = Path(constants.HF_HUB_CACHE) / f"datasets--{name.replace('/', '--')}"
    return of_the_hub.exists() or (of_datasets / name.replace("/", "___")).exists()


def _why_not_on_the_hub(name: str) -> str | None:
    """Why a dataset cannot be opened; None if it can, another error will say more, or the Hub is not to be asked."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    if constants.HF_HUB_OFFLINE:
        return None
    try:
        HfApi(constants.ENDPOINT).dataset_info(name, expand=["sha"], timeout=10)
    except GatedRepoError:
        return None
    except RepositoryNotFoundError:
        return not_found(name)
    except Exception as error:  # noqa: BLE001, of whichever web client the Hub's library uses
        if "Connect" not in type(error).__name__:
            return None
        reason = f"{type(error).__name__} {error}"
        return f"`dataset` {name!r} is not a folder here, and the Hub cannot be reached: {reason}."
    return None
