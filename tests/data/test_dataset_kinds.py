import pytest
from datasets import ClassLabel, Dataset, Features, Value

from lejepa_hf.data.dataset_kinds import Mixture, count_classes, count_rows, is_stream
from lejepa_hf.data.sources import load_source

ROWS = [{"value": i * i} for i in range(30)]


def dataset(values: list, feature) -> Dataset:
    return Dataset.from_dict({"label": values}, Features({"label": feature}))


@pytest.mark.parametrize(
    ("values", "feature", "number"),
    [
        ([0, 1], ClassLabel(names=["a", "b", "c"]), 3),
        ([4, None, 2], Value("int64"), 5),
        ([-1, -1], Value("int32"), 2),
        (["a", "b"], Value("string"), None),
        ([0.5], Value("float32"), None),
    ],
)
def test_number_of_classes(values, feature, number):
    assert count_classes(dataset(values, feature), "label") == number


def test_a_stream_has_to_name_them():
    assert count_classes(load_source("digits", streaming=True).dataset, "label") == 10
    assert count_classes(dataset([0, 1], Value("int64")).to_iterable_dataset(), "label") is None
    assert count_classes(dataset([0, 1], Value("int64")), "other") is None
    assert count_classes([{"label": 3}], "label") is None


def test_count_rows():
    assert count_rows(ROWS) == 30
    dataset = Dataset.from_list(ROWS)
    assert count_rows(dataset) == 30
    assert count_rows(dataset.to_iterable_dataset()) in (30, None)
    assert count_rows(Mixture([ROWS, ROWS[:5]], [1, 1])) == 35


def test_weights_are_normalised_once():
    assert Mixture([1, 2, 3], [1, 1, 2]).weights == [0.25, 0.25, 0.5]


@pytest.mark.parametrize(("weights", "message"), [([1], "one number for each of the 2"), ([1, 0], "positive")])
def test_weights_that_do_not_fit(weights, message):
    with pytest.raises(ValueError, match=message):
        Mixture([ROWS, ROWS], weights)


def test_streams_are_told_by_their_type():
    mapped = Dataset.from_list(ROWS)
    stream = mapped.to_iterable_dataset()
    assert [is_stream(each) for each in (ROWS, mapped, stream)] == [False, False, True]
    assert not is_stream(Mixture([ROWS, mapped], [1, 1]))
    assert is_stream(Mixture([stream, stream], [1, 1]))


def test_labels_far_too_large_for_class_numbers_are_told(caplog):
    """The online probe would have reserved a row for each of 70 thousand numbers."""
    assert count_classes(dataset([0, 70_000], Value("int64")), "label") is None
    assert "`label_column` 'label' holds 70,000, but only 2 different numbers" in caplog.text
    assert count_classes(dataset([0, 999], Value("int64")), "label") == 1000
