"""ResumableParquet: one Parquet file of embeddings, written in parts that survive a kill."""

import json
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import torch

from ...data.errors import DataError
from ...system.durable_files import complete_file, write_text
from ...system.folder_lock import clear_folder
from .image_batches import ImageBatch

logger = logging.getLogger("lejepa_hf")

_ROW_GROUP_BYTES = 2**25
_SETTINGS, _PART = "settings.json", "lejepa_part"
_NAMED = 20


class ResumableParquet:
    """
    A Parquet file of embeddings that is being written.

    Rows gather in memory until, after `seconds_per_part` or 32 MiB, they are written as a part to `<out>.parts/`;
    [`finish`] joins the parts. Every file gets its name when all of it is on the disk. The bytes of the final file do
    not depend on the parts. `settings`, everything that the embeddings depend on, are kept beside the parts; parts of
    other settings are a ValueError, or deleted with `overwrite`.
    """

    def __init__(self, out: Path, settings: dict, schema: pa.Schema, overwrite: bool, seconds_per_part: float) -> None:
        self.out, self.schema, self.seconds_per_part = out, schema, seconds_per_part
        self.folder = Path(f"{out}.parts")
        self._take_up(settings, overwrite)
        kind = self._kind = schema.field("embedding").type
        self._rows_per_group = max(1, _ROW_GROUP_BYTES // (kind.list_size * kind.value_type.bit_width // 8))
        self._begin_part(self._restore())

    def _take_up(self, settings: dict[str, Any], overwrite: bool) -> None:
        """
        Keep the parts that an earlier command left, if they belong to this one. Another `model` is not refused: the
        same encoder may have been moved to another folder.
        """
        file = self.folder / _SETTINGS
        settings = json.loads(json.dumps(settings))  # as they are read
        left: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else settings
        changed = [key for key in {**left, **settings} if key != "model" and left.get(key) != settings.get(key)]
        if changed and not overwrite:
            differences = "; ".join(f"`{key}` was {left.get(key)!r}, is {settings.get(key)!r}" for key in changed)
            raise ValueError(
                f"{str(self.folder)!r} holds the beginning of other embeddings, of model {left['model']!r}: "
                f"{differences}. Repeat that command to finish them, set `overwrite` to delete them, or choose "
                "another `out`."
            )
        if changed or not file.is_file():
            self.folder.mkdir(exist_ok=True)
            clear_folder(self.folder)
            write_text(file, json.dumps(settings))

    def _restore(self) -> int:
        """Count what existing parts hold; return the number of the first row that is missing."""
        self._parts = sorted(self.folder.glob("part-*.parquet"))
        self.num_images, self.num_broken, next_row = 0, 0, 0
        self.broken: dict[int, str] = {}
        for part in self._parts:
            metadata = parquet.read_metadata(part)
            of_part = json.loads(metadata.metadata[_PART.encode()])
            self.num_images += metadata.num_rows
            self._count(of_part["num_broken"], {int(number): reason for number, reason in of_part["broken"].items()})
            next_row = of_part["stop"]
        return next_row

    def _count(self, num_broken: int, broken: dict[int, str]) -> None:
        self.num_broken += num_broken
        self.broken |= dict(islice(broken.items(), _NAMED - len(self.broken)))

    def _begin_part(self, next_row: int) -> None:
        self.next_row, self._started = next_row, time.monotonic()
        self._waiting: list[pa.Table] = []  # of the part that comes next
        self._waiting_broken: dict[int, str] = {}

    def add(self, batch: ImageBatch, embeddings: torch.Tensor) -> None:
        """
        Add the next rows of the source, with embeddings `(num_images, dim)` of the images that could be decoded, fp32.

        Raises:
            DataError: If an embedding is not finite in the type it is stored in, or a part cannot be written.
        """
        with np.errstate(over="ignore"):  # an error follows
            values = (
                embeddings.numpy().reshape(-1, self._kind.list_size).astype(self._kind.value_type.to_pandas_dtype())
            )
        finite = np.isfinite(values).all(1)
        if not finite.all():
            is_half = values.dtype == np.float16
            way_out = "store `dtype` float32" if is_half else "check this image, or leave out `bf16`"
            raise DataError(f"Row {batch.numbers[int(finite.argmin())]}: its embedding is not finite; {way_out}.")
        for number, reason in islice(batch.broken.items(), _NAMED - len(self.broken)):
            logger.warning(f"row {number} is left out, its image is broken: {reason}")
        of_images = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), self._kind.list_size)
        columns = {"index": batch.numbers, "path": batch.paths, "label": batch.labels, "embedding": of_images}
        wanted = {name: columns[name] for name in self.schema.names}
        self._waiting.append(pa.table(wanted, schema=self.schema.remove_metadata()))
        self._waiting_broken |= batch.broken
        self._stop = batch.stop
        self._count(len(batch.broken), batch.broken)
        self.num_images += len(batch.numbers)
        rows = sum(map(len, self._waiting))
        if rows >= self._rows_per_group or time.monotonic() - self._started >= self.seconds_per_part:
            self.write_part()

    def write_part(self) -> None:
        """Put everything added so far onto the disk."""
        if not self._waiting:
            return
        named = dict(islice(self._waiting_broken.items(), _NAMED))
        of_part = {"stop": self._stop, "num_broken": len(self._waiting_broken), "broken": named}
        table = pa.concat_tables(self._waiting).combine_chunks().replace_schema_metadata({_PART: json.dumps(of_part)})
        part = self.folder / f"part-{len(self._parts):05d}.parquet"
        self._write(part, table.schema, lambda writer: writer.write_table(table))
        self._parts.append(part)
        self._begin_part(self._stop)

    def finish(self, metadata: dict) -> None:
        """
        Join all parts into the file, in row groups of 32 MiB, with `metadata` as JSON in the schema under `lejepa`;
        then remove them. Without images, or if the file cannot be written, a DataError is raised.
        """
        self.write_part()
        if not self.num_images:
            raise DataError(f"None of {self.num_broken} images can be decoded; row 0: {self.broken.get(0)}.")
        schema = self.schema.with_metadata({**(self.schema.metadata or {}), "lejepa": json.dumps(metadata)})
        self._write(self.out, schema, self._join)
        clear_folder(self.folder)
        with suppress(OSError):  # a folder that is held is deleted by its lock
            self.folder.rmdir()

    def _join(self, writer: parquet.ParquetWriter) -> None:
        size, held = self._rows_per_group, []
        for part in self._parts:
            held.append(parquet.ParquetFile(part).read().replace_schema_metadata(writer.schema.metadata))
            while sum(map(len, held)) >= size:
                rows = pa.concat_tables(held)
                writer.write_table(rows.slice(0, size).combine_chunks())
                held = [rows.slice(size).combine_chunks()]
        if sum(map(len, held)):
            writer.write_table(pa.concat_tables(held).combine_chunks())

    def _write(self, file: Path, schema: pa.Schema, fill: Callable[[parquet.ParquetWriter], None]) -> None:
        texts = [name for name in schema.names if name != "embedding"]  # numbers do not repeat
        try:
            with complete_file(file) as path, parquet.ParquetWriter(path, schema, use_dictionary=texts) as writer:
                fill(writer)
        except OSError as error:
            way_out = f"Repair that and repeat the command: it continues with row {self.next_row}."
            raise DataError(f"{file} cannot be written: {error}. {way_out}") from error
