import pytest
from datasets import Array2D, ClassLabel, Image, LargeList, List, Value

from lejepa_hf.data.label_kinds import described, kind_of_labels, named_columns


@pytest.mark.parametrize(
    ("feature", "kind"),
    [
        (ClassLabel(names=["a"]), "class"),
        (Value("uint8"), "class"),
        (Value("string"), "class"),
        (Value("bool"), "class"),
        (List(Value("large_string")), "multi-label"),
        (LargeList(ClassLabel(names=["a"])), "multi-label"),
        (Value("float64"), "number"),
        (List(Value("float32")), None),
        (Array2D((2, 2), "int32"), None),
        (Image(), None),
        (Value("date32"), None),
        ({"a": Value("int8")}, None),
    ],
)
def test_kinds(feature, kind):
    assert kind_of_labels(feature) == kind


def test_words_for_messages():
    assert (described(Value("float32")), described(Image())) == ("float32", "Image")


def test_columns_of_a_command_line():
    assert named_columns("edema, mass") == ["edema", "mass"]
    assert (named_columns("Finding Labels"), named_columns(None)) == ("Finding Labels", None)
