import numpy as np
import pytest
import torch
from picture_checks import assert_is_a_picture

from lejepa_hf.hub.pictures.held_out_classes import _Confusions, draw_confusion

LABELS = torch.arange(40) % 2


@pytest.mark.parametrize(
    ("num_classes", "names"), [(1, None), (2, ["cat", "dog"]), (10, None), (20, None), (100, None)]
)
@pytest.mark.filterwarnings("error")
def test_confusion(tmp_path, num_classes, names):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(400) % num_classes
    wrong = torch.rand(400, generator=generator) < 0.2
    predictions = torch.where(wrong, torch.randint(num_classes, (400,), generator=generator), labels)
    assert_is_a_picture(draw_confusion(tmp_path, labels, predictions, names), tmp_path, "confusion.png")


@pytest.mark.parametrize("num_classes", [3, 30])
def test_confusion_shows_what_was_taken_for_what(tmp_path, num_classes):
    labels = torch.arange(4 * num_classes) % num_classes
    predictions = labels.clone()
    right = draw_confusion(tmp_path, labels, predictions, None).read_bytes()
    predictions[0] = 1
    one = draw_confusion(tmp_path, labels, predictions, None).read_bytes()
    predictions[0] = 2
    assert len({right, one, draw_confusion(tmp_path, labels, predictions, None).read_bytes()}) == 3


@pytest.mark.filterwarnings("error")
def test_classes_that_are_only_predicted_and_numbers_with_gaps(tmp_path):
    path = draw_confusion(tmp_path, torch.tensor([3, 3, 7]), torch.tensor([3, 9, 7]), None)
    assert_is_a_picture(path, tmp_path, "confusion.png")


NAMES = {
    "mathematics": "$x$ for $^", "backslash": r"a\frac{b} \$", "underscores": "_a_b", "percent": "50% %s",
    "lines": "two\nlines\t", "hebrew": "שלום", "chinese": "猫", "emoji": "🐈 cat", "long": "x" * 300,
    "control": "a\x00b\x07", "surrogate": "\ud83d", "empty": "", "spaces": "  ",
}  # fmt: skip


OFTEN = ("mathematics", "chinese", "surrogate", "empty")  # in the default tests


@pytest.mark.parametrize(
    "name",
    [pytest.param(NAMES[kind], id=kind, marks=[] if kind in OFTEN else [pytest.mark.slow]) for kind in NAMES],
)
@pytest.mark.filterwarnings("error")
def test_any_class_names(tmp_path, name):
    draw_confusion(tmp_path, LABELS, LABELS.flip(0), [name, f"{name}2"])
    many = torch.arange(90) % 30
    draw_confusion(tmp_path, many, (many + 1) % 30, [f"{name}{number}" for number in range(30)])
    assert_is_a_picture(tmp_path / "pictures" / "confusion.png", tmp_path, "confusion.png")


@pytest.mark.filterwarnings("error")
def test_numbers_without_a_name_and_far_apart(tmp_path):
    labels = LABELS * 50_000_000
    assert draw_confusion(tmp_path, labels, labels.flip(0), ["a", "b"]).is_file()


@pytest.mark.slow
def test_thousands_of_classes(tmp_path):
    """The matrix of 20,000 classes took 3 GB."""
    labels = torch.arange(30_000) % 20_000
    assert_is_a_picture(draw_confusion(tmp_path, labels, labels.roll(1), None), tmp_path, "confusion.png")


def test_shares_of_confusions():
    labels, predictions = torch.tensor([0, 0, 0, 0, 1, 2]), torch.tensor([0, 0, 1, 3, 1, 0])
    found = _Confusions(labels, predictions, np.arange(4))
    np.testing.assert_array_equal(found.matrix(), [[0.5, 0.25, 0, 0.25], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]])
    assert found.largest(2) == [(2, 0, 1.0), (0, 1, 0.25)]


def test_rows_of_several_classes_show_their_mean(monkeypatch):
    monkeypatch.setattr("lejepa_hf.hub.pictures.held_out_classes._MOST_ROWS", 2)
    labels, predictions = torch.tensor([0, 1, 2, 2]), torch.tensor([0, 3, 2, 1])
    np.testing.assert_array_equal(_Confusions(labels, predictions, np.arange(4)).matrix(), [[0.5, 0.5], [0.5, 0.5]])
