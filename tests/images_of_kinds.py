"""Sources of few images whose labels are of each kind."""

from datasets import ClassLabel, Dataset, Features, List, Value
from datasets import Image as ImageFeature

from lejepa_hf.data.image_source import ImageSource
from lejepa_hf.data.sources import load_source

_FEATURES = {
    "class": (ClassLabel(names=["a", "b"]), [0, 1, 1]),
    "multi-label": (List(ClassLabel(names=["a", "b"])), [[0, 1], [], [1]]),
    "number": (Value("float64"), [0.5, 2, 3]),
}


def of_kind(kind: str | None) -> ImageSource:
    """Three images without content, with labels in the column `mark`."""
    rows, features = {"image": [{"bytes": b"", "path": None}] * 3}, {"image": ImageFeature(decode=False)}
    if kind is not None:
        features["mark"], rows["mark"] = _FEATURES[kind]
    source = load_source(Dataset.from_dict(rows, features=Features(features)), label_column=kind and "mark")
    source.class_names = ["a", "b"] if kind == "multi-label" else source.class_names
    return source
