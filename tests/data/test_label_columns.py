import logging
from dataclasses import replace

import datasets
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, List, Value
from images_in_groups import digits_with

from lejepa_hf.data import label_columns
from lejepa_hf.data.label_columns import with_labels, with_labels_only
from lejepa_hf.data.sources import load_source

SPECIES = ["pine", "fir", None, " oak", "fir", "  "]


@pytest.fixture
def trees(tmp_path) -> str:
    return digits_with(tmp_path / "trees.parquet", 6, species=SPECIES, alive=[True, False, None, True, True, False])


def labels(source) -> list:
    return [row[source.label_column] for row in source.dataset]


@pytest.mark.parametrize("streaming", [False, True])
def test_texts_are_sorted_and_numbered_from_0(trees, streaming):
    source = with_labels(load_source(trees, label_column="species", streaming=streaming))
    assert source.class_names == ["fir", "oak", "pine"]
    assert source.dataset.features["species"] == ClassLabel(names=["fir", "oak", "pine"])
    assert labels(source) == [2, 0, None, 1, 0, None]
    assert (source.num_images, source.is_stream) == (6, streaming) and source.origins


@pytest.mark.parametrize("streaming", [False, True])
def test_classes_keep_the_numbers_that_they_have(trees, streaming):
    source = load_source(trees, label_column="species", streaming=streaming)
    found = with_labels(source, known=replace(source, class_names=["oak", "yew"]))
    assert found.class_names == ["oak", "yew", "fir", "pine"] and labels(found)[:2] == [3, 2]


def test_true_and_false_are_classes(trees):
    source = with_labels(load_source(trees, label_column="alive"))
    assert source.class_names == ["False", "True"] and labels(source)[:3] == [1, 0, None]


MARKS = {"marks": [["b", "a"], [], None, ["c"]], "text": ["b|a", "a", "", "c | b"], "codes": [[7], [10, 7], [], None]}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("column", "kind", "names", "found"),
    [
        ("marks", None, ["a", "b", "c"], [[0, 1], [], None, [2]]),
        ("text", "multi-label", ["a", "b", "c"], [[0, 1], [0], None, [1, 2]]),
        ("codes", None, ["7", "10"], [[0], [0, 1], [], None]),
    ],
)
def test_lists_of_classes(tmp_path, column, kind, names, found, streaming):
    path = digits_with(tmp_path / "marks.parquet", 4, **MARKS)
    source = with_labels(load_source(path, streaming=streaming), [column], kind)
    assert (source.label_kind, source.class_names, labels(source)) == ("multi-label", names, found)
    assert source.dataset.features[column] == List(ClassLabel(names=names))
    assert with_labels_only(source).class_names == names and len(labels(with_labels_only(source))) == 3


@pytest.mark.parametrize("streaming", [False, True])
def test_several_columns_of_0_and_1(tmp_path, streaming):
    columns = {"edema": ["1", "0", None, "true"], "mass": [0.0, 1.0, None, float("nan")], "cyst": [1, 1, None, 0]}
    path = digits_with(tmp_path / "rows.parquet", 4, **columns)
    source = with_labels(load_source(path, streaming=streaming), ["edema", "mass", "cyst"])
    assert (source.label_column, source.class_names) == ("edema, mass, cyst", ["edema", "mass", "cyst"])
    assert labels(source) == [[0, 2], [1, 2], None, [0]] and source.label_kind == "multi-label"
    assert {"edema", "mass"} < source.features.keys()


def test_a_column_named_twice_counts_once(tmp_path):
    path = digits_with(tmp_path / "marks.parquet", 3, a=[1, 0, 1], b=[0, 0, 1], c=["x", "y", "x"])
    source = load_source(path, label_column="a")
    assert with_labels(source, ["a", "b", "a"]).class_names == ["a", "b"]
    assert with_labels(source, ["c", "c"]).several_labels == {}


def test_other_columns_are_evaluated_one_by_one(trees):
    source = with_labels(load_source(trees), ["species", "alive"])
    assert source.several_labels == {"species": ["fir", "oak", "pine"], "alive": ["False", "True"]}
    assert (source.label_column, source.class_names) == ("species", ["fir", "oak", "pine"])
    assert labels(source.with_label("alive")) == [1, 0, None, 1, 1, 0]
    assert with_labels_only(source).num_images == 5  # one row has neither of both


@pytest.mark.parametrize("streaming", [False, True])
def test_numbers(tmp_path, streaming):
    path = digits_with(tmp_path / "rows.parquet", 4, height=[1.5, None, float("nan"), 2.0], age=[30, 40, None, 7])
    source = load_source(path, streaming=streaming)
    assert labels(with_labels(source, ["height"])) == [1.5, None, None, 2.0]
    ages = with_labels(source, ["age"], "number")
    assert labels(ages) == [30.0, 40.0, None, 7.0] and (ages.label_kind, ages.class_names) == ("number", None)
    named = with_labels(source, ["age"], "class")
    assert named.class_names == ["7", "30", "40"] and labels(named) == [1, 2, None, 0]
    assert with_labels(source, ["height"], "class").class_names == ["1.5", "2.0"]


@pytest.mark.parametrize(
    ("values", "names", "found"),
    [
        ([1, 0, None, 2], None, [1, 0, None, 2]),
        ([2, 1, None, 1], ["1", "2"], [1, 0, None, 0]),
        ([70_000, 9, 70_000, None], ["9", "70000"], [1, 0, 1, None]),
        ([-1, -1, 5, None], None, [-1, -1, 5, None]),  # -1 is a missing label, which evaluations refuse
        ([None] * 4, None, [None] * 4),
    ],
)
def test_integers_that_do_not_count_from_0_are_names_of_classes(tmp_path, values, names, found):
    path = digits_with(tmp_path / "rows.parquet", 4, n=values)
    built = Dataset.from_parquet(path).cast_column("n", Value("int32"))
    source = with_labels(load_source(built, label_column="n"))
    assert (source.class_names, labels(source)) == (names, found)


def test_integers_of_other_images_keep_the_numbers_that_are_known(tmp_path):
    source = load_source(digits_with(tmp_path / "rows.parquet", 3, n=[7, 9, 7]), label_column="n")
    as_numbers, as_names = replace(source, class_names=None), replace(source, class_names=["9", "12"])
    assert labels(with_labels(source, known=as_numbers)) == [7, 9, 7]
    found = with_labels(source, known=as_names)
    assert (found.class_names, labels(found)) == (["9", "12", "7"], [2, 0, 2])


@pytest.mark.parametrize(
    ("column", "kind", "found"),
    [
        ("species", "number", "`label_kind` 'number' does not fit `label_column` 'species' .* holds string"),
        ("label", "number", "holds ClassLabel"),
        ("label", "multi-label", "`label_kind` 'multi-label' does not fit `label_column` 'label'"),
        ("image", "class", "`label_kind` 'class' does not fit"),
        ("species", "species", "`label_kind` 'species' is unknown: choose one of class, multi-label, number"),
        ("kind", None, "`label_column` 'kind' is not in `dataset` .*: it has .*species"),
    ],
)
def test_kinds_that_do_not_fit(trees, column, kind, found):
    with pytest.raises(ValueError, match=found):
        with_labels(load_source(trees), [column], kind)


def test_other_labels_stay_as_they_are(trees):
    for column in (None, "label"):
        source = load_source(trees, label_column=column)
        assert with_labels(source).dataset is source.dataset


@pytest.mark.parametrize("streaming", [False, True])
def test_rows_without_a_label_are_left_out(trees, streaming, caplog):
    source = with_labels(load_source(trees, label_column="species", streaming=streaming))
    with caplog.at_level(logging.INFO, "lejepa_hf"):
        label_columns._log_once.cache_clear()
        labelled = with_labels_only(source)
    assert labels(labelled) == [2, 0, 1, 0] and labelled.class_names == source.class_names and labelled.origins
    assert streaming or "2 of 6 images of train have no label in 'species' and are left out of" in caplog.text
    without = load_source("digits", streaming=streaming)
    assert len(list(with_labels_only(without).dataset)) == 1347


def test_nothing_is_left_out_where_no_row_has_a_label(tmp_path):
    path = digits_with(tmp_path / "rows.parquet", 3, kind=["", "", ""])
    assert with_labels_only(with_labels(load_source(path, label_column="kind"))).num_images == 3


def test_the_order_and_choice_of_rows_stay(trees):
    built = Dataset.from_parquet(trees).select([5, 0, 3]).shuffle(seed=1)
    source = with_labels(load_source(DatasetDict(train=built), label_column="species"))
    names = [None if label is None else source.class_names[label] for label in labels(source)]
    assert names == [label and label.strip() or None for label in built["species"]]


def test_images_are_not_copied(trees):
    before = load_source(trees, label_column="species")
    after = with_labels(before)
    addresses = [source.dataset.data.column("image").chunk(0).buffers()[-1].address for source in (before, after)]
    assert addresses[0] == addresses[1]
    assert datasets.Dataset is type(after.dataset)
