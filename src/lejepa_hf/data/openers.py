"""Names -> datasets: files, folders, the Hub. Errors say what was found instead."""

import difflib
import glob
import os
import re
from pathlib import Path

from PIL import Image

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
    patterns = [patterns] if isinstance(patterns, str) else patterns
    files = [file for pattern in patterns for file in _resolve(pattern)]
    return _load(name, split, streaming, kind, data_files={"train": files})


def _resolve(pattern: str) -> list[str]:
    pattern = os.path.expanduser(pattern)
    spread = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
    if spread:
        first, last = spread.groups()
        numbers = (f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1))
        return [file for number in numbers for file in _resolve(pattern.replace(spread[0], number, 1))]
    if "://" in pattern:
        return [pattern]
    files = sorted(glob.glob(pattern, recursive=True))
    if not files:
        raise ValueError(f"`dataset` {pattern!r}: no such file. {_nearby(pattern)}")
    return files


def _by_row_groups(dataset, files: list[str], split: str):
    """
    A stream of local Parquet files, whose footers are at hand: row groups as its shards, which give readers equal
    shares and take little memory, and the number of rows, which a stream does not say by itself.
    """
    import datasets
    import pyarrow.parquet as parquet

    dataset = dataset.reshard()
    rows = sum(parquet.read_metadata(file).num_rows for file in files)
    dataset.info.splits = datasets.SplitDict({split: datasets.SplitInfo(name=split, num_examples=rows)})
    return dataset


def open_folder(name: str, split: str, streaming: bool):
    """
    A folder of images, nested or flat, where folders of one class each become labels; or of Parquet or tar files,
    where their names tell the splits, as in a dataset repository of the Hub.

    Raises:
        ValueError: If it holds none of these or has no such split.
    """
    known = set(Image.registered_extensions())
    kinds: dict[str, int] = {}
    for path in Path(name).rglob("*"):
        if path.is_file():
            kinds[path.suffix.lower() or "no ending"] = kinds.get(path.suffix.lower() or "no ending", 0) + 1
    if not known & kinds.keys():
        if any(ending in kinds for ending in (".parquet", ".tar")):
            return _load(name, split, streaming, name)
        found = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())) or "nothing"
        raise ValueError(f"`dataset` {name!r} holds no images: found {found}.")
    # Map-style even for a stream, which `datasets` would read as a single shard; only the paths are read here.
    return as_stream(_load(name, split, False, "imagefolder", data_dir=name), streaming)


def open_hub(name: str, split: str, streaming: bool, config: str | None, revision: str | None, data_files):
    """
    A dataset of the Hub.

    Raises:
        ValueError: If it cannot be found, reached or read with this login, or has no such config or split.
    """
    import datasets
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

    page = f"{constants.ENDPOINT}/datasets/{name}"
    gated = f"`dataset` {name!r} is gated: accept its terms on {page}, then log in with `hf auth login`."
    try:
        return _load(name, split, streaming, name, config, revision=revision, data_files=data_files)
    except (datasets.exceptions.DatasetNotFoundError, GatedRepoError) as error:
        if "gated" in str(error) or isinstance(error, GatedRepoError):
            raise ValueError(gated) from error
        raise ValueError(
            f"`dataset` {name!r} was not found: it is neither 'digits', a folder here, nor a dataset of the Hub that "
            "can be reached with this login. Check the spelling; for a private set log in with `hf auth login`, for a "
            f"gated one also accept its terms on {page}."
        ) from error
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in (401, 403):
            raise ValueError(gated) from error
        raise ValueError(f"`dataset` {name!r}: the Hub answered with status {status}; try again later.") from error


def _load(name: str, split: str, streaming: bool, path: str, config: str | None = None, **settings):
    import datasets

    try:
        if not streaming:
            return datasets.load_dataset(path, config, split=split, **settings)
        builder = datasets.load_dataset_builder(path, config, **settings)
        if hasattr(builder.config, "fragment_scan_options"):
            import pyarrow.dataset

            # Arrow's default holds what it has read of a Parquet file until the file ends: gigabytes a worker.
            builder.config.fragment_scan_options = pyarrow.dataset.ParquetFragmentScanOptions(pre_buffer=False)
        dataset = builder.as_streaming_dataset(split=split)
        files = (builder.config.data_files or {}).get(split, [])
        local = files and not any("://" in file for file in files)
        return _by_row_groups(dataset, files, split) if local and builder.name == "parquet" else dataset
    except datasets.exceptions.DatasetGenerationError as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise ValueError(f"`dataset` {name!r} cannot be read: {reason}") from error
    except datasets.exceptions.DatasetNotFoundError:
        raise
    except FileNotFoundError as error:
        raise ValueError(f"`dataset` {name!r} has no images: {error}") from error
    except ConnectionError as error:
        where = "" if path in FILE_KINDS else "is not a folder here, and the Hub "
        raise ValueError(f"`dataset` {name!r} {where}cannot be reached: {error}") from error
    except ValueError as error:
        if "find cache" in str(error) and settings.get("data_files"):  # said of a set that was read before
            raise ValueError(f"`dataset` {name!r} has no files that match {settings['data_files']!r}.") from error
        raise _unknown_split(name, split, error) from error


def as_stream(dataset, streaming: bool):
    """A map-style dataset as a stream of undecoded rows, if that is wanted."""
    if not streaming or not hasattr(dataset, "__len__"):
        return dataset
    return dataset.to_iterable_dataset(num_shards=max(1, min(_MAX_SHARDS, len(dataset))))


def _unknown_split(name: str, split: str, error: ValueError) -> ValueError:
    """`datasets` knows which splits or configs there are, and says so in its message."""
    if "corresponds to no data" in str(error):
        return ValueError(f"`dataset` {name!r} has no images: the split {split!r} is empty.")
    if "split" not in str(error).lower() and "config" not in str(error).lower():
        return ValueError(f"`dataset` {name!r} cannot be read: {error}")
    return ValueError(f"`dataset` {name!r} has no split {split!r}: {error}")


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
