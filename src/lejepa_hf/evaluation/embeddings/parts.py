"""EmbeddingParts: embeddings of a source's rows in Parquet files of a folder, a part at a time."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet

from ...data.errors import DataError
from ...system.durable_files import complete_file
from ...system.error_text import reason_of
from .image_batches import ImageBatch

_RECORD = "lejepa_part"
_GROUP_BYTES = 2**25  # of rows in memory, and of a row group


class EmbeddingParts:
    """
    A folder, made if missing, in which embeddings gather. After a kill, they continue with row `next_row` of the
    source. All methods raise a DataError if a file cannot be written.

    Rows stay in memory until, after `seconds_per_part` or 32 MiB, they are written as the next part, which gets its
    name when all of it is on the disk. The caller chooses the columns, the same for all rows; `columns` are the names
    of those that were there before.
    """

    def __init__(self, folder: Path, seconds_per_part: float = 60.0) -> None:
        self.folder, self.seconds_per_part = folder, seconds_per_part
        with explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self.columns: list[str] = []
        self.num_images, self.next_row = 0, 0
        self.broken: dict[int, str] = {}  # why images could not be decoded, by row
        for file in self._files():
            metadata, part = _read_part(file)
            self.columns = self.columns or metadata.schema.to_arrow_schema().names
            self.num_images, self.next_row = self.num_images + metadata.num_rows, part["stop"]
            self.broken |= {int(row): reason for row, reason in part["broken"].items()}
        self._begin_part()

    @property
    def num_broken(self) -> int:
        """Number of images that could not be decoded."""
        return self.next_row - self.num_images

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("part-*.parquet"))

    def _begin_part(self) -> None:
        self._waiting: list[pa.Table] = []
        self._waiting_broken: dict[int, str] = {}
        self._num_bytes, self._started = 0, time.monotonic()

    def add(self, batch: ImageBatch, images: pa.Table) -> None:
        """Add the next rows of the source, with a table of the images that could be decoded, an empty one if none."""
        self._waiting.append(images)
        self._waiting_broken |= batch.broken
        self.broken |= batch.broken
        self.num_images, self.next_row = self.num_images + len(batch.numbers), batch.stop
        self._num_bytes += images.nbytes + sum(map(len, batch.broken.values()))
        if self._num_bytes >= _GROUP_BYTES or time.monotonic() - self._started >= self.seconds_per_part:
            self.save()

    def save(self) -> None:
        """Put everything added so far onto the disk."""
        if self._waiting:
            part = {"stop": self.next_row, "broken": self._waiting_broken}
            table = pa.concat_tables(self._waiting, promote_options="default").combine_chunks()
            table = table.replace_schema_metadata({_RECORD: json.dumps(part)})
            with _parquet_writer(self.folder / f"part-{len(self._files()):05d}.parquet", table.schema) as writer:
                writer.write_table(table)
            self._begin_part()

    def tables(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """The images of each part that has any, in the order of the source, with all columns or these."""
        for path in self._files():
            with parquet.ParquetFile(path) as file:
                if file.metadata.num_rows:
                    yield file.read(columns)

    def arrays(self, name: str) -> Iterator[np.ndarray]:
        """A column of numbers `(num_images,)`, or of vectors `(num_images, dim)`, of each part."""
        for table in self.tables([name]):
            column = table[name].combine_chunks()
            is_vectors = pa.types.is_fixed_size_list(column.type)
            yield column.flatten().to_numpy().reshape(len(column), -1) if is_vectors else column.to_numpy()


def _read_part(file: Path) -> tuple[parquet.FileMetaData, dict[str, Any]]:
    """What a part says of its rows. DataError if it is damaged."""
    try:
        metadata = parquet.read_metadata(file)
        return metadata, json.loads(metadata.metadata[_RECORD.encode()])
    except (ValueError, LookupError, TypeError) as error:
        raise DataError(
            f"{file} is damaged ({reason_of(error)}): delete the folder {file.parent} and repeat the command, which "
            "embeds its images again."
        ) from error


def as_column(vectors: np.ndarray) -> pa.FixedSizeListArray:
    """Vectors `(num_images, dim)` as a column of lists of fixed length."""
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])


def join_parts(parts: EmbeddingParts, out: Path, schema: pa.Schema) -> None:
    """
    Write the rows of all parts as one Parquet file, in row groups of 32 MiB of embeddings, so that it does not depend
    on the parts.
    """
    kind = schema.field("embedding").type
    size = max(1, _GROUP_BYTES // (kind.list_size * kind.value_type.bit_width // 8))
    rows = schema.empty_table()
    with _parquet_writer(out, schema) as writer:
        for table in parts.tables():
            rows = pa.concat_tables([rows, table.replace_schema_metadata(schema.metadata)])
            while len(rows) >= size:
                writer.write_table(rows.slice(0, size).combine_chunks())
                rows = rows.slice(size).combine_chunks()
        if len(rows):
            writer.write_table(rows.combine_chunks())


@contextmanager
def _parquet_writer(file: Path, schema: pa.Schema) -> Iterator[parquet.ParquetWriter]:
    """Yield a writer of a Parquet file, which gets its name when all of it is on the disk."""
    others = [field.name for field in schema if not pa.types.is_fixed_size_list(field.type)]  # vectors do not repeat
    with (
        explained(file),
        complete_file(file) as unfinished,
        parquet.ParquetWriter(unfinished, schema, use_dictionary=others) as writer,
    ):
        yield writer


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Raise errors of writing to a path as a DataError with the way out."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{path} cannot be written: {error}. Make room there and repeat the command, which continues where it "
            "stopped, or choose another disk: with `out`, with `cache_dir`, or with TMPDIR for temporary files."
        ) from error
