import numpy as np
import torch
from PIL import Image

from lejepa_hf.hub.demo.drawing import draw_colours, draw_heat, draw_pixels, draw_thumbnail


def test_patches_are_squares_with_sharp_edges():
    colours = torch.tensor([[[1.0, 0, 0], [0, 1, 0]], [[0, 0, 1], [1, 1, 1]]])
    picture = np.asarray(draw_colours(colours))
    assert picture.shape == (448, 448, 3)
    for row in range(2):
        for column in range(2):
            patch = picture[224 * row : 224 * (row + 1), 224 * column : 224 * (column + 1)]
            assert (patch == colours[row, column].numpy() * 255).all()


def test_heat_is_brightest_where_it_is_largest():
    heat = torch.tensor([[0.0, 1.0], [0.2, 0.1]])
    black = Image.new("RGB", (448, 448))
    light = np.asarray(draw_heat(heat, black).convert("L")).astype(int)
    means = [light[:224, :224].mean(), light[224:, 224:].mean(), light[224:, :224].mean(), light[:224, 224:].mean()]
    assert means == sorted(means) and means[0] < 5 < 100 < means[3]
    assert draw_heat(torch.ones(2, 2), black).size == (448, 448)


def test_any_number_of_channels():
    ramp = torch.arange(12.0).view(1, 3, 4)
    for channels in (1, 2, 5):
        picture = np.asarray(draw_pixels(ramp.expand(channels, -1, -1)))
        assert picture.shape == (336, 448, 3) and picture.min() == 0 and picture.max() == 255
    assert draw_pixels(torch.rand(3, 600, 500)).size == (500, 600)
    many = np.arange(30 * 40 * 5, dtype=np.float64).reshape(30, 40, 5)
    thumbnail = np.asarray(draw_thumbnail((many % 256).astype(np.uint8)))
    assert thumbnail.shape == (120, 160, 3) and thumbnail.max() == 255
    assert draw_thumbnail(Image.new("L", (1000, 500), 7)).getpixel((0, 0)) == (7, 7, 7)
