import pytest
import torch
from picture_checks import assert_is_a_picture

from lejepa_hf.hub.pictures.embedding_map import draw_embeddings


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
