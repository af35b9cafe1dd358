from dataclasses import replace

import pytest
import torch
from picture_checks import assert_is_a_picture
from PIL import Image

from lejepa_hf.evaluation.embedding_statistics import embedding_statistics
from lejepa_hf.hub.pictures.gaussianity import draw_gaussianity


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "scale"),
    [
        ((3, 200, 16), 1.0),
        ((10, 30, 4), 100.0),
        ((40, 80), 1e-3),
        ((2, 50, 8), 0.0),  # collapsed
        ((2, 1), 1.0),
    ],
)
@pytest.mark.filterwarnings("error")
def test_gaussianity(tmp_path, shape, scale):
    samples = 0.1 + scale * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    path = draw_gaussianity(tmp_path, embedding_statistics(samples, num_slices=32))
    assert_is_a_picture(path, tmp_path, "gaussianity.png")
    with Image.open(path) as image:
        assert 700 <= image.width <= 900  # legible on a phone


@pytest.mark.slow
def test_gaussianity_shows_what_was_found(tmp_path):
    samples = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
    found, other = (embedding_statistics(sample, num_slices=32) for sample in (samples, samples.exp()))
    first = draw_gaussianity(tmp_path, found).read_bytes()
    for field in ("worst_slices", "random_slices", "quantile_band", "eigenvalues"):
        changed = replace(found, **{field: getattr(other, field)})
        assert draw_gaussianity(tmp_path, changed).read_bytes() != first, field
    assert draw_gaussianity(tmp_path, found).read_bytes() == first
