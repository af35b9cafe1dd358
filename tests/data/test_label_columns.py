import logging

import datasets
import pytest
from datasets import ClassLabel, Dataset, DatasetDict
from images_in_groups import digits_with

from lejepa_hf.data import label_columns
from lejepa_hf.data.label_columns import number_classes, with_labels_only
from lejepa_hf.data.sources import load_source

SPECIES = ["pine", "fir", None, " oak", "fir", "  "]


@pytest.fixture
def trees(tmp_path) -> str:
    return digits_with(tmp_path / "trees.parquet", 6, species=SPECIES, alive=[True, False, None, True, True, False])


def labels(source) -> list:
    return [row[source.label_column] for row in source.dataset]


@pytest.mark.parametrize("streaming", [False, True])
def test_texts_are_sorted_and_numbered_from_0(trees, streaming):
    source = number_classes(load_source(trees, label_column="species", streaming=streaming))
    assert source.class_names == ["fir", "oak", "pine"]
    assert source.dataset.features["species"] == ClassLabel(names=["fir", "oak", "pine"])
    assert labels(source) == [2, 0, None, 1, 0, None]
    assert (source.num_images, source.is_stream) == (6, streaming) and source.origins


@pytest.mark.parametrize("streaming", [False, True])
def test_classes_keep_the_numbers_that_they_have(trees, streaming):
    known = number_classes(load_source(trees, "train", label_column="species", streaming=streaming), ["oak", "yew"])
    assert known.class_names == ["oak", "yew", "fir", "pine"] and labels(known)[:2] == [3, 2]


def test_true_and_false_are_classes(trees):
    source = number_classes(load_source(trees, label_column="alive"))
    assert source.class_names == ["False", "True"] and labels(source)[:3] == [1, 0, None]


def test_other_labels_stay_as_they_are(trees):
    for column in (None, "label"):
        source = load_source(trees, label_column=column)
        assert number_classes(source) is source


@pytest.mark.parametrize("streaming", [False, True])
def test_rows_without_a_label_are_left_out(trees, streaming, caplog):
    source = number_classes(load_source(trees, label_column="species", streaming=streaming))
    with caplog.at_level(logging.INFO, "lejepa_hf"):
        label_columns._log_once.cache_clear()
        labelled = with_labels_only(source)
    assert labels(labelled) == [2, 0, 1, 0] and labelled.class_names == source.class_names and labelled.origins
    assert streaming or "2 of 6 images of train have no label in 'species' and are left out of" in caplog.text
    without = load_source("digits", streaming=streaming)
    assert len(list(with_labels_only(without).dataset)) == 1347


def test_nothing_is_left_out_where_no_row_has_a_label(tmp_path):
    path = digits_with(tmp_path / "rows.parquet", 3, kind=["", "", ""])
    assert with_labels_only(number_classes(load_source(path, label_column="kind"))).num_images == 3


def test_the_order_and_choice_of_rows_stay(trees):
    built = Dataset.from_parquet(trees).select([5, 0, 3]).shuffle(seed=1)
    source = number_classes(load_source(DatasetDict(train=built), label_column="species"))
    names = [None if label is None else source.class_names[label] for label in labels(source)]
    assert names == [label and label.strip() or None for label in built["species"]]


def test_images_are_not_copied(trees):
    before = load_source(trees, label_column="species")
    after = number_classes(before)
    addresses = [source.dataset.data.column("image").chunk(0).buffers()[-1].address for source in (before, after)]
    assert addresses[0] == addresses[1]
    assert datasets.Dataset is type(after.dataset)
