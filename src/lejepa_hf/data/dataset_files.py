"""Names -> datasets: files and the Hub. Errors say what was found instead."""

import difflib
import glob
import os
import re
import tarfile
from pathlib import Path

from .network import is_network_error

# How `datasets` calls the builders of files, and by which endings they are recognised.
FILE_KINDS = {"parquet": (".parquet",), "webdataset": (".tar", ".tar.gz", ".tgz")}
_MAX_SHARDS = 64  # of a map-style dataset read as a stream


def kind_of_files(name: str) -> str | None:
    """`"parquet"`, `"webdataset"`, or None for what is no such file, glob or url."""
    path = name.split("?")[0] if "://" in name else name
    return next((kind for kind, endings in FILE_KINDS.items() if path.endswith(endings)), None)


def open_files(kind: str, patterns: str | list[str], name: str, split: str, streaming: bool):
    """
    Parquet or WebDataset tar files as one split, whatever they are called.

    Args:
        kind (`str`): `"parquet"` or `"webdataset"`.
        patterns (`str` or `list[str]`): Paths, globs, urls; `{000..123}` stands for that range of numbers.
        name (`str`): What the user asked for.
        split (`str`): `"train"`, or in map-style a slice of it. Another one must not pass silently: an encoder would
            be measured on the rows that fitted its probe.
        streaming (`bool`): Read on the way instead of copied first.

    Raises:
        ValueError: If a pattern meets no file, or the files cannot be read.
    """
    patterns = [patterns] if isinstance(patterns, str | Path) else patterns
    # A file that two patterns meet is read once.
    files = list(dict.fromkeys(file for pattern in patterns for file in _resolve(os.fspath(pattern))))
    dataset = _load(name, split, streaming, kind, data_files={"train": [_literal(file) for file in files]})
    return _by_row_groups(dataset, files, name) if streaming and kind == "parquet" else dataset


def open_shards(name: str, split: str, streaming: bool):
    """
    A folder of Parquet or tar files, where their names tell the splits, as in a dataset repository of the Hub.

    Raises:
        ValueError: If there is no such split, or the files cannot be read.
    """
    import datasets

    dataset = _load(name, split, streaming, name, data_files=None)
    files = datasets.load_dataset_builder(name).config.data_files.get(split, [])
    is_parquet = bool(files) and kind_of_files(files[0]) == "parquet"
    return _by_row_groups(dataset, files, name) if streaming and is_parquet else dataset


def _by_row_groups(stream, files: list[str], name: str):
    """Local Parquet has its footers at hand: so split, readers get equal shares and hold little in memory."""
    if any("://" in file for file in files):
        return stream
    rows = _count(files, name)
    return _with_length(stream.reshard(), rows)


def _resolve(pattern: str) -> list[str]:
    """Files a pattern means; `datasets` resolves those of urls."""
    pattern = os.path.expanduser(pattern)
    spread = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
    if spread:
        first, last = spread.groups()
        numbers = (f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1))
        return [file for number in numbers for file in _resolve(pattern.replace(spread[0], number, 1))]
    if pattern.startswith(("http://", "https://")) and "*" in pattern:
        raise ValueError(
            f"`dataset` {pattern!r}: a web server does not list its files. Name them in `data_files`, or as a range "
            "like `{000..123}`."
        )
    if "://" in pattern or os.path.isfile(pattern):
        return [pattern]
    files = sorted(glob.glob(pattern, recursive=True))
    if not files:
        raise ValueError(f"`dataset` {pattern!r}: no such file. {_nearby(pattern)}")
    return files


def _literal(file: str) -> str:
    """A found file whose name has a bracket is no pattern."""
    return file if "://" in file else glob.escape(file)


def _count(files: list[str], name: str) -> int:
    """Rows of local Parquet files, which their footers tell; a stream of them does not."""
    import pyarrow.parquet as parquet

    rows, file = 0, ""
    try:
        for file in files:
            rows += parquet.read_metadata(file).num_rows
    except (OSError, ValueError) as error:
        raise ValueError(f"`dataset` {name!r} cannot be read: {file}: {error}") from error
    if not rows:
        raise ValueError(f"`dataset` {name!r} has no images: its files have no rows.")
    return rows


def _with_length(stream, rows: int):
    """A stream does not know its length but where its split says so, which need not have a name."""
    import datasets

    split = str(stream.split)
    stream.info.splits = datasets.SplitDict({split: datasets.SplitInfo(name=split, num_examples=rows)})
    return stream


def open_hub(name: str, split: str, streaming: bool, config: str | None, revision: str | None, data_files):
    """
    A dataset of the Hub.

    Raises:
        ValueError: If it cannot be found, reached or read with this login, or has no such config or split.
    """
    return _load(name, split, streaming, name, config, revision=revision, data_files=data_files)


def _load(name: str, split: str, streaming: bool, path: str, config: str | None = None, **settings):
    import datasets

    try:
        if path == "webdataset":
            from .image_tars import ImageTars

            builder = ImageTars(**settings)
        else:
            builder = datasets.load_dataset_builder(path, config, **settings)
        if not streaming:
            builder.download_and_prepare()
            return builder.as_dataset(split=split)
        if hasattr(builder.config, "fragment_scan_options"):
            import pyarrow.dataset

            # Arrow's default holds what it has read of a Parquet file until the file ends: gigabytes a worker.
            builder.config.fragment_scan_options = pyarrow.dataset.ParquetFragmentScanOptions(pre_buffer=False)
        return builder.as_streaming_dataset(split=split)
    except Exception as error:
        files = settings["data_files"]
        files = str(files["train"] if isinstance(files, dict) else files)
        explained = _explained(error, name, split, path, files)
        if explained is None:
            raise
        raise explained from error


def _explained(error: Exception, name: str, split: str, path: str, files: str) -> ValueError | None:
    """What `datasets`, the Hub's client, a web client or a reader raised -> what to do about it."""
    from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError, DatasetsError
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

    if isinstance(error, DatasetGenerationError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    what = f"`dataset` {name!r}"
    reason = without_secrets(" ".join(str(error).split())).rstrip(".")
    repository = re.search(r"hf://datasets/([^/@]+/[^/@]+)", files)
    on_hub = repository is not None or path not in FILE_KINDS
    page = f"{constants.ENDPOINT}/datasets/{repository[1] if repository else path}"
    status = getattr(getattr(error, "response", None), "status_code", None) or getattr(error, "status", None)
    denied = isinstance(error, HfHubHTTPError) and status in (401, 403)
    if isinstance(error, GatedRepoError) or denied or re.search(r"gated (dataset|repo)\b", reason):
        return ValueError(f"{what} is gated: accept its terms on {page}, then log in with `hf auth login`.")
    if isinstance(error, DatasetNotFoundError) and reason.startswith("Revision"):
        return ValueError(f"{what} cannot be opened, check `revision`: {reason}.")
    if isinstance(error, DatasetNotFoundError):
        return ValueError(
            f"{what} was not found: it is neither 'digits', a folder here, nor a dataset of the Hub that can be "
            "reached with this login. Check the spelling; for a private set log in with `hf auth login`, for a gated "
            f"one also accept its terms on {page}."
        )
    if isinstance(status, int):
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
    known = isinstance(error, OSError | ValueError | DatasetsError | tarfile.TarError)
    return unknown_split(name, split, reason) if known else None


def without_secrets(text: str) -> str:
    """Signatures and passwords in urls are nobody's business."""
    return re.sub(r"(://[^\s'\"?]+)\?[^\s'\"]+", r"\1?...", re.sub(r"://[^/@\s]+@", "://...@", text))


def as_stream(dataset, streaming: bool):
    """A map-style dataset as a stream, if that is wanted."""
    if not streaming or not hasattr(dataset, "__len__") or not len(dataset):
        return dataset
    return _with_length(dataset.to_iterable_dataset(num_shards=min(_MAX_SHARDS, len(dataset))), len(dataset))


def parts_of_split(name: str, split: str, lengths: dict[str, int]) -> list:
    """
    Args:
        name (`str`): What the user asked for.
        split (`str`): A split, a slice like `"train[:1000]"`, or several joined by `+`.
        lengths (`dict[str, int]`): Of the splits that there are.

    Returns:
        `list`: Of each part `splitname`, `from_` and `to`.

    Raises:
        ValueError: If there is no such split, or nothing in it.
    """
    from datasets import ReadInstruction

    try:
        parts = ReadInstruction.from_spec(split).to_absolute(lengths)
    except (ValueError, AssertionError) as error:
        raise unknown_split(name, split, error) from error
    if not any(part.to > part.from_ for part in parts):
        raise ValueError(f"`dataset` {name!r} has no images: the split {split!r} is empty.")
    return parts


def unknown_split(name: str, split: str, reason: object) -> ValueError:
    """`datasets` knows which splits or configs there are, and says so in its message."""
    if "corresponds to no data" in str(reason):
        return ValueError(f"`dataset` {name!r} has no images: the split {split!r} is empty.")
    if "config name is missing" in str(reason).lower() or "builderconfig" in str(reason).lower():
        return ValueError(f"`dataset` {name!r} has other configurations, set `config` to one of them: {reason}")
    if "split" not in str(reason).lower():
        return ValueError(f"`dataset` {name!r} cannot be read: {reason}")
    return ValueError(f"`dataset` {name!r} has no split {split!r}: {reason}")


def no_such_folder(name: str) -> ValueError:
    """The error for a path that does not exist, with what is near it."""
    return ValueError(f"`dataset` {name!r}: no such folder. {_nearby(name)}")


def _nearby(name: str) -> str:
    parent = Path(name).parent
    if not parent.is_dir():
        return f"The folder {str(parent)!r} does not exist either."
    entries = sorted(entry.name for entry in parent.iterdir())
    close = difflib.get_close_matches(Path(name).name, entries) or entries[:8]
    return f"{str(parent)!r} holds {', '.join(close) or 'nothing'}."
