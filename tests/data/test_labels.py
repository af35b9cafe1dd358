import pytest
from datasets import ClassLabel, Dataset, Features, Value

from lejepa_hf.data.dataset_kinds import count_classes
from lejepa_hf.data.sources import load_source


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
