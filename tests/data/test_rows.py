import numpy as np
import pytest
import torch
from PIL import Image

from lejepa_hf.data.rows import as_row, class_number

IMAGE = Image.new("RGB", (9, 7))


@pytest.mark.parametrize(
    ("example", "row"),
    [
        ({"photo": IMAGE, "label": 3, "index": 1}, {"photo": IMAGE, "label": 3, "index": 1}),
        ((IMAGE, 3), {"photo": IMAGE, "label": 3}),
        ((IMAGE, 3, "more"), {"photo": IMAGE, "label": 3}),
        ((IMAGE,), {"photo": IMAGE}),
        (({"bytes": b"png", "path": None}, 3), {"photo": {"bytes": b"png", "path": None}, "label": 3}),
        (({"global_views": 1}, 3), {"global_views": 1, "label": 3}),
        ({"global_views": 1}, {"global_views": 1}),
        (IMAGE, {"photo": IMAGE}),
        ("a.png", {"photo": "a.png"}),
        ((), {"photo": None}),
    ],
)
def test_rows(example, row):
    assert as_row(example, "photo") == row


def test_arrays_alone():
    for image in (np.zeros((4, 5, 3)), torch.zeros(3, 4, 5)):
        assert as_row(image, "image")["image"] is image


@pytest.mark.parametrize("label", [3, np.int64(3), torch.tensor(3), np.array(3), torch.tensor([3])])
def test_class_numbers(label):
    assert class_number(label) == 3


@pytest.mark.parametrize(
    "label", [None, "seven", 1.5, -1, 2**64, torch.tensor(1.5), torch.tensor([1, 2]), np.float32(3)]
)
def test_other_labels(label):
    assert class_number(label) == -1
