import pytest
import torch
from picture_checks import assert_is_a_picture

from lejepa_hf.hub.pictures.image_grids import draw_neighbours, draw_patch_maps, draw_unlabelled_neighbours

CHANNELS = [3, pytest.param(1, marks=pytest.mark.slow), pytest.param(5, marks=pytest.mark.slow)]


@pytest.mark.parametrize("channels", CHANNELS)
def test_patch_maps(tmp_path, channels):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(6, channels, 24, 24, generator=generator)
    colours = torch.rand(6, 4, 4, 3, generator=generator)
    path = draw_patch_maps(tmp_path, pixels, colours)
    assert_is_a_picture(path, tmp_path, "pca_maps.png")
    first = path.read_bytes()
    assert draw_patch_maps(tmp_path, pixels, colours.flip(1)).read_bytes() != first
    assert draw_patch_maps(tmp_path, pixels[:1], colours[:1]).is_file()
    beside = draw_patch_maps(tmp_path, pixels, colours, colours.flip(2)).read_bytes()
    assert len({first, beside, draw_patch_maps(tmp_path, pixels, colours, colours).read_bytes()}) == 3


def drawn(run, labels, channels: int = 3, names=None):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(len(labels), 5, channels, 12, 12, generator=generator)
    return draw_neighbours(run, pixels[:, 0], [0] * len(labels), pixels[:, 1:], labels, names)


@pytest.mark.parametrize("channels", CHANNELS)
def test_neighbours(tmp_path, channels):
    path = drawn(tmp_path, [[0, 0, 1, 0]] * 4, channels)
    assert_is_a_picture(path, tmp_path, "neighbours.png")


@pytest.mark.slow
def test_wrong_neighbours_and_names_are_seen(tmp_path):
    first = drawn(tmp_path, [[0, 0, 0, 0]] * 4).read_bytes()
    assert drawn(tmp_path, [[0, 0, 0, 0]] * 4).read_bytes() == first
    assert drawn(tmp_path, [[0, 0, 0, 1], *[[0, 0, 0, 0]] * 3]).read_bytes() != first
    assert drawn(tmp_path, [[0, 0, 0, 0]] * 4, names=["a name too long to be written out"]).read_bytes() != first


@pytest.mark.filterwarnings("error")
def test_any_class_names(tmp_path):
    for name in ("$^", "$x$", "猫", "a\nb", "", "\ud83d"):
        assert drawn(tmp_path, [[0, 0, 1, 0]] * 2, names=[name]).is_file()


def test_neighbours_without_labels(tmp_path):
    pixels, cosines = torch.randn(3, 5, 3, 12, 12, generator=torch.Generator().manual_seed(0)), torch.ones(3, 4)
    path = draw_unlabelled_neighbours(tmp_path, pixels[:, 0], pixels[:, 1:], cosines)
    assert_is_a_picture(path, tmp_path, "neighbours.png")
    first = path.read_bytes()
    assert draw_unlabelled_neighbours(tmp_path, pixels[:, 0], pixels[:, 1:], cosines / 2).read_bytes() != first
