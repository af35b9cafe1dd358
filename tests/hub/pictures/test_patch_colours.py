import pytest
import torch
from picture_checks import assert_is_a_picture

from lejepa_hf.hub.pictures.patch_colours import draw_patch_maps


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_patch_maps(tmp_path, channels):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(6, channels, 24, 24, generator=generator)
    colours = torch.rand(6, 4, 4, 3, generator=generator)
    path = draw_patch_maps(tmp_path, pixels, colours)
    assert_is_a_picture(path, tmp_path, "pca_maps.png")
    first = path.read_bytes()
    assert draw_patch_maps(tmp_path, pixels, colours.flip(1)).read_bytes() != first
    assert draw_patch_maps(tmp_path, pixels[:1], colours[:1]).is_file()
