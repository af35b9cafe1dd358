import numpy as np
import pytest
import torch
from picture_checks import assert_is_a_picture

from lejepa_hf.hub.pictures.embedding_map import apart, draw_image_map, place_embeddings


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("number", "channels"), [(50, 3), (3, 1), (2, 5)])
def test_images_stand_on_the_map(tmp_path, number, channels):
    pixels, asked = noise(number, channels, 8, 8), []

    def pixels_of(numbers: list[int]) -> torch.Tensor:
        asked.extend(numbers)
        return pixels[numbers]

    path = draw_image_map(tmp_path, noise(number, 16), pixels_of)
    assert_is_a_picture(path, tmp_path, "embeddings.png")
    assert asked and len(set(asked)) == len(asked)
    first = path.read_bytes()
    assert draw_image_map(tmp_path, noise(number, 16), lambda numbers: pixels[numbers].flip(2)).read_bytes() != first


def test_images_do_not_overlap():
    points = np.array([[0.0, 0.0], [0.5, 0.5], [1.0, 0.2], [0.3, -1.0], [0.9, 0.9]])
    assert apart(points, 1.0) == [0, 2, 3]


def test_embeddings_without_a_direction_have_no_place(tmp_path, caplog):
    embeddings = noise(12, 8)
    embeddings[3] = 0
    points, numbers = place_embeddings(embeddings)
    assert points.shape == (11, 2) and numbers.tolist() == [number for number in range(12) if number != 3]
    assert "1 embeddings that are zero, NaN or infinite are left out" in caplog.text
    assert draw_image_map(tmp_path, torch.ones(4, 8), lambda numbers: noise(len(numbers), 3, 8, 8)) is None
