import json

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from lejepa_hf.data.errors import DataError
from lejepa_hf.evaluation.embeddings.image_batches import ImageBatch
from lejepa_hf.evaluation.embeddings.parquet_file import as_rows, claim_parts, join_parts
from lejepa_hf.evaluation.embeddings.parts import EmbeddingParts
from lejepa_hf.system.folder_lock import locked_folder

SCHEMA = datasets.Features(
    {
        "index": datasets.Value("int64"),
        "path": datasets.Value("string"),
        "embedding": datasets.List(datasets.Value("float16"), length=2),
    }
).arrow_schema


def batch(*numbers: int, broken: dict | None = None) -> ImageBatch:
    stop = max([*numbers, *(broken or {})]) + 1
    return ImageBatch(stop, list(numbers), [None] * len(numbers), [f"{n}.png" for n in numbers], None, broken or {})


def embeddings(*numbers: int) -> torch.Tensor:
    return torch.tensor([[number, 0.5] for number in numbers], dtype=torch.float32)


def add(parts: EmbeddingParts, rows: ImageBatch) -> None:
    parts.add(rows, as_rows(rows, embeddings(*rows.numbers), SCHEMA))


def test_parts_are_taken_up_and_joined(tmp_path):
    out, folder = tmp_path / "e.parquet", tmp_path / "e.parquet.parts"
    with locked_folder(folder, "`out`"):
        for rows in (batch(0, 2, broken={1: "torn"}), batch(3)):
            claim_parts(folder, {"model": "m", "weights": "w"}, overwrite=False)
            add(EmbeddingParts(folder, seconds_per_part=0), rows)
        names = sorted(path.name for path in folder.iterdir() if not path.name.startswith(".lock"))
        assert names == ["part-00000.parquet", "part-00001.parquet", "settings.json"]
        claim_parts(folder, {"model": "moved", "weights": "w"}, overwrite=False)
        parts = EmbeddingParts(folder)
        assert (parts.next_row, parts.num_images, parts.num_broken, parts.broken) == (4, 3, 1, {1: "torn"})
        add(parts, batch(4, 5))
        parts.save()
        join_parts(parts, out, SCHEMA, {"dim": 2})
    table = pq.read_table(out)
    assert table["index"].to_pylist() == [0, 2, 3, 4, 5]
    assert table["path"].to_pylist() == ["0.png", "2.png", "3.png", "4.png", "5.png"]
    assert np.array(table["embedding"].to_pylist()).tolist() == embeddings(0, 2, 3, 4, 5).tolist()
    assert json.loads(table.schema.metadata[b"lejepa"]) == {"dim": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["e.parquet"]


def test_parts_that_name_only_some_broken_images_go_on(tmp_path):
    """As lejepa-hf wrote them at first: at most 20 reasons in a part, beside the number of broken images."""
    record = {"stop": 32, "num_broken": 30, "broken": {str(row): "torn" for row in range(20)}}
    rows = as_rows(batch(30, 31), embeddings(30, 31), SCHEMA)
    folder, out = tmp_path / "e.parquet.parts", tmp_path / "e.parquet"
    folder.mkdir()
    pq.write_table(rows.replace_schema_metadata({"lejepa_part": json.dumps(record)}), folder / "part-00000.parquet")
    parts = EmbeddingParts(folder)
    assert (parts.next_row, parts.num_images, parts.num_broken) == (32, 2, 30)
    add(parts, batch(33, broken={32: "torn"}))
    parts.save()
    join_parts(parts, out, SCHEMA, {})
    assert pq.read_table(out)["index"].to_pylist() == [30, 31, 33] and parts.num_broken == 31


def test_what_half_precision_cannot_hold_stops_at_once():
    with pytest.raises(DataError, match="Row 7: its embedding is not finite; store `dtype` float32"):
        as_rows(batch(6, 7), torch.tensor([[0.0, 1.0], [0.0, 1e6]]), SCHEMA)


@pytest.mark.parametrize(("before", "now"), [({"revision": "old"}, {}), ({}, {"revision": "new"})])
def test_a_setting_that_was_left_out_is_another_one(tmp_path, before, now):
    claim_parts(tmp_path, {"model": "m", **before}, overwrite=False)
    with pytest.raises(ValueError, match="`revision` was"):
        claim_parts(tmp_path, {"model": "m", **now}, overwrite=False)
