"""Names that stand for no images are refused at once; without a network `datasets` would try for half a minute."""

import difflib
import os
from pathlib import Path

from .dataset_files import FILE_KINDS
from .opening_errors import nearby
from .readers.addresses import ARRAY_ENDINGS


def refuse_missing_path(name: str) -> None:
    """Raise ValueError for a path that does not exist, and for any other name while the Hub cannot be reached."""
    refuse_impossible_path(name)
    if not _is_cached(name) and (failure := _failure_to_reach_the_hub()) is not None:
        entries = [str(path) for path in Path(name).parent.iterdir()] if Path(name).parent.is_dir() else []
        close = difflib.get_close_matches(name, entries, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"`dataset` {name!r} is not a folder here, and the Hub cannot be reached: {failure}.{hint}")


def refuse_impossible_path(name: str) -> None:
    """Raise ValueError for a path that does not exist and cannot be an id of the Hub, and for a single image."""
    what = f"`dataset` {name!r}"
    if os.path.isfile(name):
        endings = ", ".join([ending for kind in FILE_KINDS.values() for ending in kind] + [*ARRAY_ENDINGS])
        raise ValueError(f"{what} is a single file: name the folder with the images, or files that end in {endings}.")
    if name.startswith((".", "/", "~")) or name.endswith(("/", os.sep)) or name.count("/") > 1:
        raise ValueError(f"{what}: no such folder. {nearby(name.rstrip('/'))}")


def _is_cached(name: str) -> bool:
    """Whether a dataset of the Hub was downloaded before, so that it opens without a network."""
    from datasets import config
    from huggingface_hub import constants

    folders = Path(config.HF_DATASETS_CACHE) / name.replace("/", "___"), Path(constants.HF_HUB_CACHE)
    return folders[0].exists() or (folders[1] / f"datasets--{name.replace('/', '--')}").exists()


def _failure_to_reach_the_hub() -> str | None:
    """Why no connection to the Hub can be opened; None if it answers, whatever it says, or is not to be asked."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return None
    try:
        get_session().head(constants.ENDPOINT, timeout=10)
    except Exception as error:  # noqa: BLE001, of whichever web client the Hub's library uses
        return f"{type(error).__name__} {error}" if "Connect" in type(error).__name__ else None
    return None
