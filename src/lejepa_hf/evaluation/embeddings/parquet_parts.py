"""Embeddings on their way into one Parquet file: parts that survive a kill, then joined."""

import json
import logging
import shutil
import time
from pathlib import Path

import torch

from ...data.errors import DataError
from ...system.durable_files import flush
from .image_batches import ImageBatch

logger = logging.getLogger("lejepa_hf")

_ROW_GROUP_BYTES = 2**25
_SETTINGS, _PART = "settings.json", "lejepa_part"
_NAMED = 20


class EmbeddingFile:
    """
    A Parquet file of embeddings that is being written.

    Rows gather in memory until a part of them is written to `<out>.parts/`; [`finish`] joins the parts. Every file
    gets its name when all of it is on the disk. Its bytes depend on what is added alone, not on the parts.

    Args:
        out (`Path`): The file, from [`check_out`].
        settings (`dict`): What the embeddings depend on, kept beside the parts; `model` alone is no reason to refuse,
            since a moved folder is the same encoder.
        schema (`pyarrow.Schema`): Columns `index` and `embedding`, and `path` and `label` where the source has them.
        overwrite (`bool`): Whether parts of other settings may be deleted.
        seconds_per_part (`float`): A part is written at least that often, and before it is 32 MiB large.

    Raises:
        ValueError: If there are parts of other settings.
    """

    def __init__(self, out: Path, settings: dict, schema, overwrite: bool, seconds_per_part: float) -> None:
        self.out, self.schema, self.seconds_per_part = out, schema, seconds_per_part
        self.folder = Path(f"{out}.parts")
        self._take_up(settings, overwrite)
        kind = schema.field("embedding").type
        self._rows_per_group = max(1, _ROW_GROUP_BYTES // (kind.list_size * kind.value_type.bit_width // 8))
        self._begin_part(self._restore())

    def _take_up(self, settings: dict, overwrite: bool) -> None:
        """Parts left by an earlier command, if they belong to this one."""
        file = self.folder / _SETTINGS
        left = json.loads(file.read_text()) if file.is_file() else None
        settings = json.loads(json.dumps(settings))  # as they come back
        keys = [key for key in {**left, **settings} if key != "model"] if left is not None else []
        changed = [key for key in keys if left.get(key) != settings.get(key)]
        if changed and not overwrite:
            differences = "; ".join(f"`{key}` was {left.get(key)!r}, is {settings.get(key)!r}" for key in changed)
            raise ValueError(
                f"{str(self.folder)!r} holds the beginning of other embeddings, of model {left['model']!r}: "
                f"{differences}. Repeat that command to finish them, set `overwrite` to delete them, or choose "
                "another `out`."
            )
        if changed:
            shutil.rmtree(self.folder)
        if left is None or changed:
            self.folder.mkdir(exist_ok=True)
            for unknown in self.folder.glob("part-*.parquet"):
                unknown.unlink()
            _publish(file, lambda unfinished: unfinished.write_text(json.dumps(settings)))

    def _restore(self) -> int:
        """Counts of the parts that are there; the number of the first row that is missing."""
        import pyarrow.parquet as parquet

        self._parts = sorted(self.folder.glob("part-*.parquet"))
        self.num_images, self.num_broken, self.broken, next_row = 0, 0, {}, 0
        for part in self._parts:
            metadata = parquet.read_metadata(part)
            told = json.loads(metadata.metadata[_PART.encode()])
            self.num_images += metadata.num_rows
            self._count(told["num_broken"], {int(number): reason for number, reason in told["broken"].items()})
            next_row = told["stop"]
        return next_row

    def _count(self, num_broken: int, broken: dict[int, str]) -> None:
        self.num_broken += num_broken
        for number, reason in broken.items():
            if len(self.broken) < _NAMED:
                self.broken[number] = reason

    def _begin_part(self, next_row: int) -> None:
        self.next_row, self._started = next_row, time.monotonic()
        self._batches: list[tuple] = []  # of ImageBatch and an array (num_images, dim)

    def add(self, batch: ImageBatch, embeddings: torch.Tensor) -> None:
        """
        Args:
            batch ([`ImageBatch`]): The next rows of the source.
            embeddings (`torch.Tensor` of shape `(num_images, dim)`): fp32, of those that could be decoded.

        Raises:
            DataError: If an embedding is not finite as it would be stored, or a part cannot be written.
        """
        import numpy as np

        kind = self.schema.field("embedding").type
        with np.errstate(over="ignore"):  # it is told below
            values = embeddings.numpy().reshape(-1, kind.list_size).astype(kind.value_type.to_pandas_dtype())
        finite = np.isfinite(values).all(1)
        if not finite.all():
            way_out = (
                "store `dtype` float32" if values.dtype == np.float16 else "look at this image, or leave out `bf16`"
            )
            raise DataError(f"Row {batch.numbers[int(finite.argmin())]}: its embedding is not finite; {way_out}.")
        for number, reason in list(batch.broken.items())[: max(0, _NAMED - self.num_broken)]:
            logger.warning(f"row {number} is left out, its image is broken: {reason}")
        batch.images = None  # held no longer than needed
        self._batches.append((batch, values))
        self._count(len(batch.broken), batch.broken)
        self.num_images += len(batch.numbers)
        rows = sum(len(batch.numbers) for batch, _ in self._batches)
        if rows >= self._rows_per_group or time.monotonic() - self._started >= self.seconds_per_part:
            self.write_part()

    def write_part(self) -> None:
        """Everything added so far onto the disk."""
        if not self._batches:
            return
        batches = [batch for batch, _ in self._batches]
        broken = {number: reason for batch in batches for number, reason in batch.broken.items()}
        told = {
            "stop": batches[-1].stop,
            "num_broken": len(broken),
            "broken": dict(list(broken.items())[:_NAMED]),
        }
        table = self._table().replace_schema_metadata({_PART: json.dumps(told)})
        part = self.folder / f"part-{len(self._parts):05d}.parquet"
        self._write(part, table.schema, lambda writer: writer.write_table(table))
        self._parts.append(part)
        self._begin_part(batches[-1].stop)

    def _table(self):
        import numpy as np
        import pyarrow as pa

        kind = self.schema.field("embedding").type
        batches = [batch for batch, _ in self._batches]
        flat = np.concatenate([values.ravel() for _, values in self._batches])
        columns = {
            "index": pa.array([number for batch in batches for number in batch.numbers], pa.int64()),
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(flat, kind.value_type), kind.list_size),
        }
        for name, values in (("path", "paths"), ("label", "labels")):
            if name in self.schema.names:
                listed = [value for batch in batches for value in getattr(batch, values)]
                columns[name] = pa.array(listed, self.schema.field(name).type)
        return pa.table({name: columns[name] for name in self.schema.names}).cast(self.schema.remove_metadata())

    def finish(self, metadata: dict) -> None:
        """
        Join all parts into the file, by row groups of 32 MiB, and remove them.

        Args:
            metadata (`dict`): Put into the schema under `lejepa`, as JSON.

        Raises:
            DataError: If there are no images, or the file cannot be written.
        """
        self.write_part()
        if not self.num_images:
            raise DataError(f"None of {self.num_broken} images can be decoded; row 0: {self.broken.get(0)}.")
        schema = self.schema.with_metadata({**(self.schema.metadata or {}), "lejepa": json.dumps(metadata)})
        self._write(self.out, schema, self._join)
        shutil.rmtree(self.folder)

    def _join(self, writer) -> None:
        import pyarrow as pa
        import pyarrow.parquet as parquet

        size, held = self._rows_per_group, []
        for part in self._parts:
            held.append(parquet.ParquetFile(part).read().replace_schema_metadata(writer.schema.metadata))
            while sum(map(len, held)) >= size:
                rows = pa.concat_tables(held)
                writer.write_table(rows.slice(0, size).combine_chunks())
                held = [rows.slice(size).combine_chunks()]
        if sum(map(len, held)):
            writer.write_table(pa.concat_tables(held).combine_chunks())

    def _write(self, file: Path, schema, fill) -> None:
        import pyarrow.parquet as parquet

        def write(unfinished: Path) -> None:
            texts = [name for name in schema.names if name != "embedding"]  # numbers do not repeat
            with parquet.ParquetWriter(unfinished, schema, use_dictionary=texts) as writer:
                fill(writer)

        try:
            _publish(file, write)
        except OSError as error:
            raise DataError(
                f"{file} cannot be written: {error}. Mend that and repeat the command: it goes on with row "
                f"{self.next_row}."
            ) from error


def _publish(file: Path, write) -> None:
    """A file under its name when all of it is on the disk, so that neither a kill nor a power cut leaves half."""
    unfinished = file.with_name(f"{file.name}.unfinished")
    try:
        write(unfinished)
        flush(unfinished)
    except BaseException:
        unfinished.unlink(missing_ok=True)  # a full disk needs the room
        raise
    unfinished.replace(file)
    flush(file.parent)


def check_out(out: str | Path, overwrite: bool) -> Path:
    """
    Args:
        out (`str` or `Path`): Where the embeddings shall be.
        overwrite (`bool`): Whether a file that is there may be replaced.

    Returns:
        `Path`

    Raises:
        ValueError: If it has another ending than `.parquet`, its folder is missing, or it is there already.
    """
    path = Path(out).expanduser()
    if path.suffix != ".parquet":
        raise ValueError(f"`out` {str(out)!r} must end in .parquet.")
    if not path.parent.is_dir():
        raise ValueError(f"`out` {str(out)!r}: the folder {str(path.parent)!r} does not exist; make it first.")
    if path.exists() and not (overwrite and path.is_file()):
        raise ValueError(
            f"`out` {str(out)!r} is there already: set `overwrite` to replace it, or choose another name."
        )
    return path
