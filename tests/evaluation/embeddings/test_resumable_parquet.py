import json

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from lejepa_hf.data.errors import DataError
from lejepa_hf.evaluation.embeddings.image_batches import ImageBatch
from lejepa_hf.evaluation.embeddings.resumable_parquet import ResumableParquet

SCHEMA = datasets.Features(
    {
        "index": datasets.Value("int64"),
        "path": datasets.Value("string"),
        "embedding": datasets.List(datasets.Value("float16"), length=2),
    }
).arrow_schema


def begin(out, seconds_per_part: float = 60.0) -> ResumableParquet:
    return ResumableParquet(out, {"model": "m", "weights": "w"}, SCHEMA, False, seconds_per_part)


def batch(*numbers: int, broken: dict | None = None) -> ImageBatch:
    stop = max([*numbers, *(broken or {})]) + 1
    return ImageBatch(stop, list(numbers), [None] * len(numbers), [f"{n}.png" for n in numbers], None, broken or {})


def embeddings(*numbers: int) -> torch.Tensor:
    return torch.tensor([[number, 0.5] for number in numbers], dtype=torch.float32)


def test_parts_are_taken_up_and_joined(tmp_path):
    out = tmp_path / "e.parquet"
    first = begin(out, seconds_per_part=0)
    first.add(batch(0, 2, broken={1: "torn"}), embeddings(0, 2))
    first.add(batch(3), embeddings(3))
    assert sorted(path.name for path in first.folder.iterdir()) == [
        "part-00000.parquet", "part-00001.parquet", "settings.json",
    ]  # fmt: skip
    second = begin(out)
    assert (second.next_row, second.num_images, second.num_broken, second.broken) == (4, 3, 1, {1: "torn"})
    second.add(batch(4, 5), embeddings(4, 5))
    second.finish({"dim": 2})
    table = pq.read_table(out)
    assert table["index"].to_pylist() == [0, 2, 3, 4, 5]
    assert table["path"].to_pylist() == ["0.png", "2.png", "3.png", "4.png", "5.png"]
    assert np.array(table["embedding"].to_pylist()).tolist() == embeddings(0, 2, 3, 4, 5).tolist()
    assert json.loads(table.schema.metadata[b"lejepa"]) == {"dim": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["e.parquet"]


def test_what_half_precision_cannot_hold_stops_at_once(tmp_path):
    with pytest.raises(DataError, match="Row 7: its embedding is not finite; store `dtype` float32"):
        begin(tmp_path / "e.parquet").add(batch(6, 7), torch.tensor([[0.0, 1.0], [0.0, 1e6]]))


@pytest.mark.parametrize(("before", "now"), [({"revision": "old"}, {}), ({}, {"revision": "new"})])
def test_a_setting_that_was_left_out_is_another_one(tmp_path, before, now):
    columns = datasets.Features(
        {"index": datasets.Value("int64"), "embedding": datasets.List(datasets.Value("float32"), length=2)}
    )
    arguments = columns.arrow_schema, False, 60.0
    ResumableParquet(tmp_path / "e.parquet", {"model": "m", **before}, *arguments)
    with pytest.raises(ValueError, match="`revision` was"):
        ResumableParquet(tmp_path / "e.parquet", {"model": "m", **now}, *arguments)
