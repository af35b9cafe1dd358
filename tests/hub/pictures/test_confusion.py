import pytest
import torch
from picture_checks import assert_is_a_picture

from lejepa_hf.hub.pictures.confusion import draw_confusion


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
