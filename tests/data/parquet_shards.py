"""Streams of real Parquet files whose images are numbered bytes that nothing can decode."""

from itertools import count
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

_IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def write_shard(path: Path, images: list[bytes], row_group_size: int | None = None) -> None:
    table = pa.table({"image": pa.array([{"bytes": image, "path": None} for image in images], _IMAGE)})
    with pq.ParquetWriter(path, table.schema) as writer:
        if images:  # as `datasets` writes an empty shard; a row group without rows it cannot read
            writer.write_table(table, row_group_size)


def write_shards(folder: Path, sizes: list[int], row_group_size: int | None = None) -> None:
    numbers = count()
    for shard, size in enumerate(sizes):
        images = [b"image %d" % next(numbers) for _ in range(size)]
        write_shard(folder / f"{shard:02}.parquet", images, row_group_size)


def open_shards(files: list[str] | str):
    stream = datasets.load_dataset("parquet", data_files={"train": files}, split="train", streaming=True)
    return stream.cast_column("image", datasets.Image(decode=False))


def shards(folder: Path, sizes: list[int], row_group_size: int | None = None):
    folder.mkdir(exist_ok=True)
    write_shards(folder, sizes, row_group_size)
    return open_shards(str(folder / "*.parquet"))


def number(row: dict) -> int:
    """Which row over all shards this one is."""
    return int(row["image"]["bytes"].split()[1])
