"""embed_images: a source of images -> a Parquet file of embeddings."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from ...data.dataset_files import folder_of, kind_of_files
from ...data.errors import DataError
from ...data.opening_errors import without_secrets
from ...data.sources import Built, ImageSource, load_source
from ...system.durable_files import write_text
from ...system.folder_lock import clear_folder, locked_folder
from ..encoder_loading import find_encoder, load_encoder
from ..feature_extractor import FEATURE_POOLINGS, FeatureExtractor
from .extraction import embedded_batches
from .image_batches import ImageBatch
from .parts import EmbeddingParts, as_column, join_parts

logger = logging.getLogger("lejepa_hf")

DTYPES = ("float32", "float16")
_NAMED = 20  # broken images in the log
_MANY_BROKEN = 0.01  # of all images, from which on they are logged as an error


@dataclass
class Features:
    """
    Features to take from an encoder: `pooling`, `num_layers` and `bf16` of [`FeatureExtractor`], and the type in which
    they are stored, `float32` or `float16`.
    """

    pooling: str = "auto"
    layers: int = 1
    dtype: str = "float32"
    bf16: bool = False

    def __post_init__(self) -> None:
        for field, value, known in (("pooling", self.pooling, FEATURE_POOLINGS), ("dtype", self.dtype, DTYPES)):
            if value not in known:
                raise ValueError(f"`{field}` {value!r} is unknown: choose one of {', '.join(known)}.")
        if self.layers < 1:
            raise ValueError(f"`layers` must be at least 1, got {self.layers}.")


@dataclass
class EmbeddedImages:
    """The Parquet file that [`embed_images`] has written."""

    out: Path
    num_images: int
    dim: int  # of an embedding
    num_broken: int  # images that could not be decoded and are left out
    images_per_second: float  # without images that earlier calls have embedded

    @property
    def has_many_broken(self) -> bool:
        """Whether more than 1 % of the images are left out."""
        return self.num_broken > _MANY_BROKEN * (self.num_images + self.num_broken)


def embed_images(
    model: str | Path,
    dataset: str | Path | Built,
    out: str | Path,
    features: Features | None = None,
    batch_size: int = 64,
    device: str | None = None,
    overwrite: bool = False,
    seconds_per_part: float = 60.0,
    columns: Sequence[str] = (),
    **source: Any,  # noqa: ANN401
) -> EmbeddedImages:
    """
    Embed all images of a source into one Parquet file; the same call after a kill continues where it stopped.

    `datasets.load_dataset("parquet", ...)` reads it, with the columns `index` (row in the source), `path` (of the
    image within its folder) and `label` (with the names of the classes) if the source has them, those of `columns`,
    and `embedding` (a list of fixed length). `lejepa` in the schema's metadata names model, dataset, pooling, layers
    and dimension.
    Memory does not grow with the number of images.

    Args:
        model (`str` or `Path`): Exported encoder, run folder, or Hub id of any vision model that `AutoModel` loads.
        dataset: As in [`~data.sources.load_source`].
        out (`str` or `Path`): Path of the file, which ends in `.parquet`. Unfinished parts are in `<out>.parts/`.
        features ([`Features`], *optional*): Features to take. The trained embedding in fp32 if missing.
        batch_size (`int`, *optional*, defaults to 64): Images of a forward pass.
        device (`str`, *optional*): Device to compute on. If missing, the accelerator if there is one, or the CPU.
        overwrite (`bool`, *optional*, defaults to `False`): Replace a finished `out`, delete parts of other settings.
        seconds_per_part (`float`, *optional*, defaults to 60): The most work in seconds that a kill can cost.
        columns (`Sequence[str]`, *optional*): Further columns of the source to copy, such as ids: texts, numbers,
            labels, and lists of them.
        **source: Arguments of [`~data.sources.load_source`]: `split`, `config`, `streaming` and so on.

    Raises:
        ValueError: Before any image is embedded, if an argument cannot be used.
        DataError: If the source stops being readable or a part cannot be written.
    """
    features = features or Features()
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
    out = _checked(out, overwrite)
    opened = load_source(dataset, **source)
    opened.kept_columns = _kept(opened, columns)
    extractor = FeatureExtractor(*load_encoder(model, device), features.pooling, features.layers, features.bf16)
    pooling, dim = extractor.try_one()
    weights = extractor.fingerprint()
    settings: dict[str, Any] = {"model": os.path.abspath(model) if os.path.isdir(model) else str(model)}
    settings |= {"weights": weights} | _identity(opened, source) | asdict(features)
    settings |= {"columns": opened.kept_columns} if opened.kept_columns else {}  # earlier versions had none
    schema, folder = _schema(opened, features.dtype, dim), Path(f"{out}.parts")
    with locked_folder(folder, "`out`"):  # two commands at once would mix their rows
        _claim(folder, settings, overwrite)
        parts = EmbeddingParts(folder, seconds_per_part)
        before, started = parts.num_images, time.monotonic()
        if parts.next_row:
            logger.warning(f"{out}: continuing with row {parts.next_row}, {before} images are embedded already")
        try:
            for batch, embeddings in embedded_batches(extractor, opened, batch_size, parts.next_row):
                for row, reason in islice(batch.broken.items(), max(0, _NAMED - parts.num_broken)):
                    logger.warning(f"row {row} is left out, its image is broken: {reason}")
                batch.paths = [_path_within(path, opened.name) for path in batch.paths]
                parts.add(batch, _as_rows(batch, embeddings, schema))
        finally:
            parts.save()  # kept after a failure
        if not parts.num_images:
            raise DataError(f"None of {parts.num_broken} images can be decoded; row 0: {parts.broken.get(0)}.")
        rate = (parts.num_images - before) / (time.monotonic() - started)
        about: dict[str, object] = {"model": public_model(model), "weights": weights, "dataset": _public(opened.name)}
        if isinstance(dataset, str | Path):  # that of a built dataset is unknown
            about["split"] = source.get("split", "train")
        about |= asdict(features) | {"pooling": pooling, "dim": dim}
        about |= {"num_images": parts.num_images, "num_broken": parts.num_broken}
        join_parts(parts, out, schema.with_metadata({**(schema.metadata or {}), "lejepa": json.dumps(about)}))
        clear_folder(folder)
    _log_broken(out, parts)
    return EmbeddedImages(out, parts.num_images, dim, parts.num_broken, rate)


def _checked(out: str | Path, overwrite: bool) -> Path:
    path = Path(out).expanduser()
    if path.suffix != ".parquet":
        raise ValueError(f"`out` {str(out)!r} must end in .parquet.")
    if not path.parent.is_dir():
        raise ValueError(f"`out` {str(out)!r}: the folder {str(path.parent)!r} does not exist; make it first.")
    if path.exists() and not (overwrite and path.is_file()):
        raise ValueError(f"`out` {str(out)!r} exists already: set `overwrite` to replace it, or choose another name.")
    return path


def _identity(opened: ImageSource, source: dict[str, Any]) -> dict[str, Any]:
    """Identifies the source of parts. Streaming does not change its rows."""
    name = os.path.abspath(opened.name) if os.path.exists(opened.name) else opened.name
    given = {key: value for key, value in source.items() if key != "streaming" and value is not None}
    if "data_files" in given:
        given["data_files"] = without_secrets(str(given["data_files"]))
    found = {"image_column": opened.image_column, "label_column": opened.label_column}
    return {"dataset": name, "split": "train", **given, **found, "num_images": opened.num_images}


def _kept(source: ImageSource, columns: Sequence[str]) -> list[str]:
    """The columns to copy beside those that the file has anyway; what cannot be copied is refused."""
    taken = ["index", "embedding"] + ([] if source.label_column is None else ["label"])
    kept = []
    for name in dict.fromkeys(columns):
        if name not in source.features:
            known = ", ".join(source.features)
            raise ValueError(f"`columns` {name!r} is not in `dataset` {source.name!r}; its columns are: {known}.")
        if name == source.label_column == "label":
            continue  # it is copied anyway
        if name in taken:
            raise ValueError(
                f"`columns` {name!r}: the file has a column of its own with this name. Rename the one of `dataset` "
                f"{source.name!r}, with `rename_column` of `datasets`."
            )
        if not _is_plain(source.features[name]):
            kind = type(source.features[name]).__name__
            raise ValueError(
                f"`columns` {name!r} of `dataset` {source.name!r} has the type {kind}: only texts, numbers, labels "
                "and lists of them can be copied."
            )
        kept.append(name)
    return kept


def _is_plain(feature: object) -> bool:
    from datasets import ClassLabel, LargeList, List, Value

    return isinstance(feature, ClassLabel | Value) or (
        isinstance(feature, LargeList | List) and _is_plain(feature.feature)
    )


def _claim(folder: Path, settings: dict[str, Any], overwrite: bool) -> None:
    """
    Keep the parts that an earlier command left in a folder, if they have the same `settings`, everything that the
    embeddings depend on. Those of others are a ValueError, or deleted with `overwrite`. Another `model` is not
    refused: the same encoder may have been moved to another folder.
    """
    file = folder / "settings.json"
    settings = json.loads(json.dumps(settings))  # as they are read
    left: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else settings
    changed = [key for key in {**left, **settings} if key != "model" and left.get(key) != settings.get(key)]
    if changed and not overwrite:
        differences = "; ".join(f"`{key}` was {left.get(key)!r}, is {settings.get(key)!r}" for key in changed)
        raise ValueError(
            f"{str(folder)!r} holds the beginning of other embeddings, of model {left['model']!r}: {differences}. "
            "Repeat that command to finish them, set `overwrite` to delete them, or choose another `out`."
        )
    if changed or not file.is_file():
        clear_folder(folder)
        write_text(file, json.dumps(settings))


def _schema(source: ImageSource, dtype: str, dim: int) -> pa.Schema:
    """Columns for `datasets` to read back, with class names."""
    from datasets import Features as Columns
    from datasets import List, Value

    first = next(iter(source.dataset), None)
    if first is None:
        raise ValueError(f"`dataset` {source.name!r} has no images: it is empty.")
    image = first[source.image_column]
    columns: dict[str, Any] = {"index": Value("int64")}
    if isinstance(image, dict) and image.get("path"):
        columns["path"] = Value("string")
    if source.label_column is not None:
        columns["label"] = source.features[source.label_column]
    columns |= {name: source.features[name] for name in source.kept_columns}
    return Columns({**columns, "embedding": List(Value(dtype), length=dim)}).arrow_schema


def _as_rows(batch: ImageBatch, embeddings: torch.Tensor, schema: pa.Schema) -> pa.Table:
    """
    The images of a batch, with embeddings `(num_images, dim)`, fp32, as rows of the file. A DataError is raised if an
    embedding is not finite in the type it is stored in.
    """
    kind = schema.field("embedding").type
    with np.errstate(over="ignore"):  # an error follows
        vectors = embeddings.numpy().reshape(-1, kind.list_size).astype(kind.value_type.to_pandas_dtype())
    finite = np.isfinite(vectors).all(1)
    if not finite.all():
        rows = [str(batch.numbers[place]) for place in np.flatnonzero(~finite)]
        is_half = vectors.dtype == np.float16
        way_out = "store `dtype` float32" if is_half else "check these images, or leave out `bf16`"
        raise DataError(
            f"{len(rows)} of {len(finite)} images of a batch have NaN or infinite embeddings (rows "
            f"{', '.join(rows[:_NAMED])}{', ...' if len(rows) > _NAMED else ''}): {way_out}."
        )
    columns = {"index": batch.numbers, "path": batch.paths, "label": batch.labels, "embedding": as_column(vectors)}
    columns |= batch.kept
    return pa.table({name: columns[name] for name in schema.names}, schema=schema.remove_metadata())


def _path_within(path: str | None, source: str) -> str | None:
    """A file's path within the source's folder, without the folder's own path."""
    if path is None or "://" in path:
        return path and without_secrets(path)
    if not os.path.isabs(path):
        return path
    inside = os.path.relpath(path, os.path.abspath(folder_of(source)))
    return os.path.basename(path) if inside.startswith(os.pardir) else inside


def _public(name: str) -> str:
    """A name without the folders of this machine; ids of the Hub and urls stay unchanged."""
    if "://" in name and not name.startswith("file:"):
        return without_secrets(name)
    is_local = os.path.isabs(name) or name.startswith((".", "file:")) or os.path.exists(name) or kind_of_files(name)
    return os.path.basename(os.path.abspath(name)) if is_local else name


def public_model(model: str | Path) -> str:
    """The name of an encoder without the folders of this machine: `<run>/encoder` for the encoder of a run."""
    folder = find_encoder(model)
    if not os.path.isdir(folder):
        return _public(str(model))
    folder = Path(folder).resolve()
    return f"{folder.parent.name}/{folder.name}" if (folder.parent / "recipe.yaml").is_file() else folder.name


def _log_broken(out: Path, parts: EmbeddingParts) -> None:
    share = parts.num_broken / (parts.num_images + parts.num_broken)
    message = f"{out}: {parts.num_broken} broken images are left out, {share:.2%} of all"
    if share > _MANY_BROKEN:
        some = dict(islice(parts.broken.items(), _NAMED))
        logger.error(f"{message}. CHECK THE SOURCE before you use these embeddings. Some of them: {some}")
    elif share:
        logger.warning(message)
