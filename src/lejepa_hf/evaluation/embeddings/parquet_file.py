"""The Parquet file that [`EmbeddingParts`] become: whose parts they are, their rows, and joining them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from ...data.errors import DataError
from ...system.durable_files import write_text
from ...system.folder_lock import clear_folder
from .image_batches import ImageBatch
from .parts import EmbeddingParts, as_column, parquet_writer

_ROW_GROUP_BYTES = 2**25
_SETTINGS = "settings.json"


def claim_parts(folder: Path, settings: dict[str, Any], overwrite: bool) -> None:
    """
    Keep the parts that an earlier command left in a folder, if they have the same `settings`, everything that the
    embeddings depend on. Parts of others are a ValueError, or deleted with `overwrite`. Another `model` is not
    refused: the same encoder may have been moved to another folder.
    """
    file = folder / _SETTINGS
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


def as_rows(batch: ImageBatch, embeddings: torch.Tensor, schema: pa.Schema) -> pa.Table:
    """
    The images of a batch, with embeddings `(num_images, dim)`, fp32, as rows of the file. A DataError is raised if an
    embedding is not finite in the type it is stored in.
    """
    kind = schema.field("embedding").type
    with np.errstate(over="ignore"):  # an error follows
        vectors = embeddings.numpy().reshape(-1, kind.list_size).astype(kind.value_type.to_pandas_dtype())
    finite = np.isfinite(vectors).all(1)
    if not finite.all():
        is_half = vectors.dtype == np.float16
        way_out = "store `dtype` float32" if is_half else "check this image, or leave out `bf16`"
        raise DataError(f"Row {batch.numbers[int(finite.argmin())]}: its embedding is not finite; {way_out}.")
    columns = {"index": batch.numbers, "path": batch.paths, "label": batch.labels, "embedding": as_column(vectors)}
    return pa.table({name: columns[name] for name in schema.names}, schema=schema.remove_metadata())


def join_parts(parts: EmbeddingParts, out: Path, schema: pa.Schema, about: dict[str, Any]) -> None:
    """
    Write the rows of all parts as one file, with `about` as JSON in the schema under `lejepa`; then delete the parts.
    The file has row groups of 32 MiB and does not depend on the parts. Without images, a DataError is raised.
    """
    if not parts.num_images:
        raise DataError(f"None of {parts.num_broken} images can be decoded; row 0: {parts.broken.get(0)}.")
    schema = schema.with_metadata({**(schema.metadata or {}), "lejepa": json.dumps(about)})
    kind = schema.field("embedding").type
    size = max(1, _ROW_GROUP_BYTES // (kind.list_size * kind.value_type.bit_width // 8))
    rows = schema.empty_table()
    with parquet_writer(out, schema) as writer:
        for table in parts.tables():
            rows = pa.concat_tables([rows, table.replace_schema_metadata(schema.metadata)])
            while len(rows) >= size:
                writer.write_table(rows.slice(0, size).combine_chunks())
                rows = rows.slice(size).combine_chunks()
        if len(rows):
            writer.write_table(rows.combine_chunks())
    clear_folder(parts.folder)
