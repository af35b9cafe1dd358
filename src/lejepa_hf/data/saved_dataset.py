"""Folders that `save_to_disk` of `datasets` wrote."""

import os
import re

from .dataset_files import Opened, as_stream, parts_of_split

_MARKS = (("dataset_dict.json",), ("state.json", "dataset_info.json"))  # of several splits, of one


def is_saved_dataset(folder: str) -> bool:
    """Whether `datasets.load_from_disk` reads it."""
    return any(all(os.path.isfile(os.path.join(folder, mark)) for mark in marks) for marks in _MARKS)


def open_saved_dataset(name: str, split: str, streaming: bool) -> Opened:
    """
    Open a folder that `save_to_disk` wrote, in place, without a copy in the cache. The split may be a slice like
    `"train[:1000]"`; a single dataset without a split name is `train`.
    """
    from datasets import concatenate_datasets, load_from_disk

    try:
        found = load_from_disk(name)
    except (OSError, ValueError, KeyError) as error:
        reason = f"{type(error).__name__}: {error}. Save it again with `save_to_disk`."
        raise ValueError(f"`dataset` {name!r} cannot be read: {reason}") from error
    if not isinstance(found, dict):
        own = str(found.split)
        found = {own if found.split is not None and re.fullmatch(r"\w+", own) else "train": found}
    found = {str(key): dataset.with_format(None) for key, dataset in found.items()}
    parts = parts_of_split(name, split, {key: len(dataset) for key, dataset in found.items()})
    taken = [found[part.splitname].select(range(part.from_, part.to)) for part in parts]
    return as_stream(taken[0] if len(taken) == 1 else concatenate_datasets(taken), streaming)
