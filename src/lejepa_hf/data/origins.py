"""Where the rows of a source come from, and whether two sources are known to have rows in common."""

import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Origin:
    """
    Where rows come from: enough to prove that two sources have rows in common, without reading an image.

    Args:
        dataset: Name as given; a folder or files by their real paths, or the very dataset that `datasets` had built.
        split (`str`, *optional*): Expression of the split, `"train[:1000]"` for example. All rows if missing.
        settings (`tuple`, *optional*): What else chooses the rows: configuration, revision, files of a Hub dataset.
        length_of (`Callable`, *optional*): Number of rows of a split by its name, called only for slices.
    """

    dataset: Any
    split: str | None = None
    settings: tuple = ()
    length_of: Callable[[str], int | None] | None = field(default=None, compare=False)


def real_place(name: str) -> str:
    """A path of this machine without links and dots; any other name as it is."""
    return os.path.realpath(name) if os.path.exists(name) else name


def rows_in_common(one: Origin | None, other: Origin | None) -> str | None:
    """
    Rows that two sources have in common, in words: `"all of train"`, `"train[400:500]"`, a file. None if there are
    none, or it is not known: other names may stand for the same images.
    """
    if one is None or other is None:
        return None
    are_files = isinstance(one.dataset, frozenset) and isinstance(other.dataset, frozenset)
    if are_files and one.dataset != other.dataset:
        return _file_in_common(one, other)
    is_text = isinstance(one.dataset, str | frozenset) and isinstance(other.dataset, str | frozenset)
    is_same = one.dataset == other.dataset if is_text else one.dataset is other.dataset
    if not is_same or one.settings != other.settings:
        return None
    if one.split is None or other.split is None:
        return "all images"
    return _overlap(one, other)


def _file_in_common(one: Origin, other: Origin) -> str | None:
    """A file that both sources read; which rows of several files a slice takes is not known."""
    files = sorted(one.dataset & other.dataset)
    is_whole, is_whole_there = ("[" not in f"{origin.split}" for origin in (one, other))
    is_inside = (is_whole and other.dataset <= one.dataset) or (is_whole_there and one.dataset <= other.dataset)
    return os.path.basename(files[0]) if files and ((is_whole and is_whole_there) or is_inside) else None


def _overlap(one: Origin, other: Origin) -> str | None:
    """What two splits of the same source have in common."""
    from datasets import ReadInstruction

    expressions = [str(one.split), str(other.split)]
    names = [[part.partition("[")[0].strip() for part in expression.split("+")] for expression in expressions]
    is_sliced = any("[" in expression for expression in expressions)
    lengths: dict[str, int] = {}
    for name in names[0] + names[1]:
        # Without slices it is enough to know which splits are meant.
        is_needed = is_sliced and name in names[0] and name in names[1]
        length = (one.length_of(name) if one.length_of is not None else None) if is_needed else 1
        if length is None:
            return None
        lengths[name] = length
    first, second = (ReadInstruction.from_spec(expression).to_absolute(lengths) for expression in expressions)
    for part, there in itertools.product(first, second):
        begin, end = max(part.from_, there.from_), min(part.to, there.to)
        if (name := part.splitname) == there.splitname and begin < end:
            return f"all of {name}" if (begin, end) == (0, lengths[name]) else f"{name}[{begin}:{end}]"
    return None
