from dataclasses import replace

import pytest
from photo_tables import write_photos, write_table

from lejepa_hf.data.labelled_source import open_labelled


@pytest.mark.parametrize("streaming", [False, True])
def test_columns_and_kinds(tmp_path, streaming):
    names = write_photos(tmp_path, 3)
    table = write_table(tmp_path / "x.csv", file=names, kind=["b", "a", None], age=[3, 4, 5], a=[0, 1, 1], b=[1, 0, 1])
    train = open_labelled(table, "train", "kind", streaming=streaming)
    assert train.class_names == ["a", "b"] and train.label_kind == "class" and train.split == "train"
    assert open_labelled(
        table, "train", "kind", known=replace(train, class_names=["c", "b"]), streaming=streaming
    ).class_names == ["c", "b", "a"]
    assert open_labelled(table, "train", ["a", "b"], streaming=streaming).label_kind == "multi-label"
    assert open_labelled(table, "train", "age", "number", streaming=streaming).label_kind == "number"
    assert open_labelled(table, "train", streaming=streaming).label_kind is None
