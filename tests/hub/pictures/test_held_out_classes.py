import pytest
import torch
from picture_checks import assert_is_a_picture

from lejepa_hf.hub.pictures.held_out_classes import draw_confusion, draw_embeddings


@pytest.mark.parametrize(
    ("num_images", "num_classes", "names"),
    [(60, 10, list("abcdefghij")), (60, 2, None), (12, 1, ["only"]), (5, 2, None), (2, 2, None), (120, 40, None)],
)
def test_embeddings(tmp_path, num_images, num_classes, names):
    labels = torch.arange(num_images) % num_classes
    generator = torch.Generator().manual_seed(0)
    embeddings = 3 * torch.eye(max(num_classes, 8))[labels] + torch.randn(num_images, 1, generator=generator)
    embeddings += 0.1 * torch.randn(embeddings.shape, generator=generator)
    path = draw_embeddings(tmp_path, embeddings, labels, names)
    assert_is_a_picture(path, tmp_path, "embeddings.png")


def test_names_are_written_into_the_picture(tmp_path):
    embeddings, labels = torch.randn(20, 8, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 2
    pictures = [draw_embeddings(tmp_path, embeddings, labels, names).read_bytes() for names in (None, ["cat", "dog"])]
    assert pictures[0] != pictures[1]


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
