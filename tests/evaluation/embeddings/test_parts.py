import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from lejepa_hf.data.errors import DataError
from lejepa_hf.data.sources import load_source
from lejepa_hf.evaluation.embeddings import parts as module
from lejepa_hf.evaluation.embeddings.extraction import as_table
from lejepa_hf.evaluation.embeddings.image_batches import ImageBatch
from lejepa_hf.evaluation.embeddings.parts import EmbeddingParts


def batch(start: int, number: int, broken: dict | None = None) -> ImageBatch:
    rows = [row for row in range(start, start + number) if row not in (broken or {})]
    return ImageBatch(start + number, rows, [row % 3 for row in rows], [None] * len(rows), None, broken or {})


def numbers(of: ImageBatch, width: int = 5) -> torch.Tensor:
    return torch.tensor(of.numbers, dtype=torch.float32)[:, None] + torch.arange(width) / 10


def add(parts: EmbeddingParts, rows: ImageBatch) -> None:
    parts.add(rows, as_table(rows, {"embeddings": numbers(rows)}, load_source("digits")))


def rows_of(parts: EmbeddingParts) -> list[float]:
    return [row for array in parts.arrays("embeddings") for row in array[:, 0].tolist()]


def test_what_was_added_comes_back(tmp_path):
    parts = EmbeddingParts(tmp_path / "some" / "folder")
    for rows in (batch(0, 2, {0: "torn", 1: "torn"}), batch(2, 3, {3: "torn"}), batch(5, 2)):
        add(parts, rows)
    parts.save()
    again = EmbeddingParts(parts.folder)
    assert (again.num_images, again.next_row, again.num_broken) == (4, 7, 3)
    assert again.broken == parts.broken == {0: "torn", 1: "torn", 3: "torn"}
    assert again.columns == ["labels", "embeddings"] and rows_of(again) == [2, 4, 5, 6]
    assert [array.tolist() for array in again.arrays("labels")] == [[2, 1, 2, 0]]


def test_a_part_without_images_counts_its_rows(tmp_path):
    parts = EmbeddingParts(tmp_path, seconds_per_part=0)
    for rows in (batch(0, 2, {0: "torn", 1: "torn"}), batch(2, 2), batch(4, 1, {4: "torn"})):
        add(parts, rows)
    again = EmbeddingParts(tmp_path)
    assert len(list(tmp_path.iterdir())) == 3 and (again.num_images, again.next_row) == (2, 5)
    assert again.columns == ["labels", "embeddings"] and rows_of(again) == [2, 3]


@pytest.mark.parametrize("content", [b"", b"damaged", "another file"])
def test_a_damaged_part_is_named_with_the_way_out(tmp_path, content):
    file = tmp_path / "part-00000.parquet"
    if isinstance(content, str):
        pq.write_table(pa.table({"x": [1]}), file)
    else:
        file.write_bytes(content)
    with pytest.raises(DataError, match=f"{file} is damaged .*: delete the folder {tmp_path} and repeat"):
        EmbeddingParts(tmp_path)


def test_what_a_kill_cost_is_written_again(tmp_path):
    parts = EmbeddingParts(tmp_path)
    add(parts, batch(0, 4))
    parts.save()
    add(parts, batch(4, 4))  # and no save: a kill
    (tmp_path / "part-00001.parquet.unfinished").write_bytes(b"torn")
    again = EmbeddingParts(tmp_path)
    assert (again.next_row, again.num_images) == (4, 4)
    add(again, batch(4, 2))
    again.save()
    assert rows_of(again) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("reasons", [0, 2])
def test_parts_are_of_some_size(tmp_path, monkeypatch, reasons):
    """Of embeddings, or of what broken images have as their reason, where a drive is away."""
    monkeypatch.setattr(module, "_GROUP_BYTES", 100)
    parts = EmbeddingParts(tmp_path)
    for start in (0, 4):
        add(parts, batch(start, 4, {start + row: "away" * 20 for row in range(reasons)}))
    assert len(list(tmp_path.glob("part-*.parquet"))) == 2


def test_a_full_disk_is_one_sentence(tmp_path):
    parts = EmbeddingParts(tmp_path)
    (tmp_path / "part-00000.parquet.unfinished").symlink_to("/dev/full")
    add(parts, batch(0, 4))
    with pytest.raises(DataError, match=r"part-00000.parquet cannot be written: .*No space left.*`cache_dir`"):
        parts.save()
